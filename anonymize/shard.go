package anonymize

import (
	"fmt"
	"strconv"
	"strings"
)

// String returns "1/4" for the second of four parts, "" for everything.
func (s Shard) String() string {
	if s.Of <= 1 {
		return ""
	}
	return fmt.Sprintf("%d/%d", s.Index, s.Of)
}

// ParseShard reads what String writes: index and number of parts, the index counted from 0.
func ParseShard(text string) (Shard, error) {
	if text == "" {
		return Shard{}, nil
	}
	index, of, _ := strings.Cut(text, "/")
	i, err1 := strconv.Atoi(index)
	n, err2 := strconv.Atoi(of)
	s := Shard{Index: i, Of: n}
	if err1 != nil || err2 != nil || n < 1 {
		return Shard{}, fmt.Errorf("anonymize: shard must look like 0/4: index, counted from 0, and number of parts")
	}
	return s, s.validate()
}

func (s Shard) validate() error {
	if s.Of < 0 || s.Index < 0 || s.Index >= max(s.Of, 1) {
		return fmt.Errorf("anonymize: shard %d/%d does not exist: the index is counted from 0 and less than the number of parts", s.Index, s.Of)
	}
	return nil
}
