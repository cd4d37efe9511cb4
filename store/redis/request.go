package redis

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strings"
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

var errSlots = errors.New("redis: want one to eight limits for one guess")

// slack is how long something stays beyond its use. A guess may be concluded until MaxCheck after it was reserved; and the server lets keys end by its own clock,
// which somebody may set by an hour.
const slack = lockout.MaxCheck + 65*time.Minute

// spare is how much longer a key is kept, so that it need not be kept again at the next guess.
const spare = 5 * time.Minute

// guess returns what the scripts reserve and conclude take: the keys, and all the rest packed in one string, with the format of it before; that is because the
// server takes longer to read twenty arguments than to decide. Slots in a row that have the same name are a run: they are in one hash, which is read in one go.
func (l *Lockouts) guess(now time.Time, slots []lockout.Slot, c lockout.Conclusion) (r request, err error) {
	if len(slots) == 0 || len(slots) > maxSlots {
		return r, errSlots
	}
	r.line = make([]any, commandSize, commandSize+len(slots)+2)
	var room [headSize + maxSlots*slotSize]byte
	b := appendNumber(room[:0], now.UnixMicro())
	b = appendNumber(b, c.Reserved.UnixMicro())
	b = append(b, byte(c.Result))
	run := 0
	for i := range slots {
		s := &slots[i]
		if run == 0 {
			name := s.Key.Name()
			for run = 1; i+run < len(slots) && slots[i+run].Key.Name() == name; run++ {
			}
			r.line = append(r.line, l.key(name))
			r.keys++
			b = append(b, byte(run))
		} else {
			b = append(b, 0)
		}
		run--
		b = appendField(b, s.Key)
		b = append(b, 0)
		if s.Clears {
			b[len(b)-1] = 1
		}
		b = appendNumber(b, int64(s.Attempts))
		b = appendNumber(b, s.Duration.Microseconds())
	}
	r.line = append(r.line, formats[len(slots)], string(b))
	return r, nil
}

// formats are what struct.unpack of Lua has to know about what guess packs, by the number of slots: the time, when the guess was reserved and how it came out; then, for each
// slot, how many are in its run, or 0 if it is not the first; its field; whether it clears; its attempts and its duration.
var formats = func() (list [maxSlots + 1]any) {
	for n := range list {
		list[n] = "<ddB" + strings.Repeat("Bc12Bdd", n)
	}
	return list
}()

// The sizes of that, and of what the scripts return and keep.
const (
	headSize    = 8 + 8 + 1
	slotSize    = 1 + 12 + 1 + 8 + 8
	verdictSize = 3 + 4 + 8
	stateSize   = 4*8 + 4*4
)

// appendNumber appends an integer of less than 2^53 as Lua has it.
func appendNumber(b []byte, n int64) []byte {
	return binary.LittleEndian.AppendUint64(b, math.Float64bits(float64(n)))
}

// readNumber reads one.
func readNumber(b string) int64 {
	return int64(math.Float64frombits(binary.LittleEndian.Uint64([]byte(b[:8]))))
}

// readCount reads how many there are of something.
func readCount(b string) int { return int(int32(binary.LittleEndian.Uint32([]byte(b[:4])))) }

// key returns where what is counted under a name is.
func (l *Lockouts) key(name lockout.Name) string {
	var room [maxPrefix + 3 + 2*len(name)]byte
	return string(hex.AppendEncode(append(room[:0], l.prefix...), name[:]))
}

// appendField appends the field of that hash: the key without the name.
func appendField(b []byte, key lockout.Key) []byte {
	return hex.AppendEncode(b, key[len(lockout.Name{}):])
}
