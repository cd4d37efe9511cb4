package redis

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"time"

	"github.com/carrel-project/carrel/lockout"
)

// A request is what a script is run with: room for the command, then keys, then arguments.
type request struct {
	line []any
	keys int
}

// commandSize is that room: EVALSHA, the script, and how many keys there are.
const commandSize = 3

// one returns a request with one key.
func one(key string, args ...any) request {
	return request{append(append(make([]any, commandSize, commandSize+1+len(args)), key), args...), 1}
}

// maxSlots is what the bits of a Verdict have room for.
const maxSlots = 8

// How long something stays beyond its use. A guess may be concluded until MaxCheck after it was reserved; and the server lets keys end by its own clock,
// which somebody may set by an hour.
const slack = lockout.MaxCheck + 65*time.Minute

// keep returns for how many milliseconds a key is kept that counts for so long.
func keep(d time.Duration) int64 { return (d + slack).Milliseconds() }

var errSlots = errors.New("redis: want one to eight limits for one guess")

// guess returns what the scripts reserve and conclude take: the keys, and all the rest packed in one string, with the format of it before. That is because the
// server takes longer to read twenty arguments than to decide. Slots in a row that have the same name are a run: they are in one hash, which is read in one go.
func (l *Lockouts) guess(now time.Time, slots []lockout.Slot, c lockout.Conclusion) (r request, err error) {
	if len(slots) == 0 || len(slots) > maxSlots {
		return r, errSlots
	}
	p := packer{format: make([]byte, 0, 128), data: make([]byte, 0, 256)}
	p.format = append(p.format, '<')
	p.number(now.UnixMicro())
	p.number(c.Reserved.UnixMicro())
	p.small(byte(c.Result))
	r.line = make([]any, commandSize, commandSize+len(slots)+2)
	for i := 0; i < len(slots); {
		name := slots[i].Key.Name()
		n, longest := 0, time.Duration(0)
		for i+n < len(slots) && slots[i+n].Key.Name() == name {
			longest = max(longest, slots[i+n].Duration)
			n++
		}
		r.line = append(r.line, l.key(name))
		r.keys++
		p.small(byte(n))
		p.number(keep(2 * longest))
		for range n {
			p.slot(&slots[i])
			i++
		}
	}
	r.line = append(r.line, string(p.format), string(p.data))
	return r, nil
}

// A packer writes what struct.unpack of Lua reads.
type packer struct{ format, data []byte }

// number writes an integer of less than 2^53 as Lua has it.
func (p *packer) number(n int64) {
	p.format = append(p.format, 'd')
	p.data = binary.LittleEndian.AppendUint64(p.data, math.Float64bits(float64(n)))
}

func (p *packer) small(b byte) {
	p.format = append(p.format, 'B')
	p.data = append(p.data, b)
}

func (p *packer) slot(s *lockout.Slot) {
	p.format = append(p.format, "c12"...)
	p.data = appendField(p.data, s.Key)
	clears := byte(0)
	if s.Clears {
		clears = 1
	}
	p.small(clears)
	p.number(int64(s.Attempts))
	p.number(s.Duration.Microseconds())
}

// The sizes of what the scripts return and keep.
const (
	verdictSize = 3 + 4 + 8
	stateSize   = 3*8 + 3*4
)

// key returns where what is counted under a name is.
func (l *Lockouts) key(name lockout.Name) string {
	var room [maxPrefix + 3 + 2*len(name)]byte
	return string(hex.AppendEncode(append(room[:0], l.prefix...), name[:]))
}

// appendField appends the field of that hash: the key without the name.
func appendField(b []byte, key lockout.Key) []byte {
	return hex.AppendEncode(b, key[len(lockout.Name{}):])
}
