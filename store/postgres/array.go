package postgres

import (
	"strconv"
	"strings"
)

// Sets of any size go to the server as the text of an array, which every driver passes through.

// int64Array writes an array of bigint or of a smaller integer. None is NULL.
func int64Array[T ~int64 | ~int32 | ~int](list []T) string {
	b := make([]byte, 0, 2+12*len(list))
	b = append(b, '{')
	for i, n := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if int64(n) == none {
			b = append(b, "NULL"...)
		} else {
			b = strconv.AppendInt(b, int64(n), 10)
		}
	}
	return string(append(b, '}'))
}

func boolArray(list []bool) string {
	b := []byte{'{'}
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		if v {
			b = append(b, 't')
		} else {
			b = append(b, 'f')
		}
	}
	return string(append(b, '}'))
}

var arrayEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func textArray(list []string) string {
	var b strings.Builder
	b.WriteByte('{')
	for i, s := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('"')
		if strings.ContainsAny(s, `"\`) {
			arrayEscapes.WriteString(&b, s)
		} else {
			b.WriteString(s)
		}
		b.WriteByte('"')
	}
	b.WriteByte('}')
	return b.String()
}
