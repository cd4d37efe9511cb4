package main

import (
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A table is text in aligned columns. A column in which every cell is a number is set to the right.
type table struct {
	columns []string
	rows    [][]string
}

func (t *table) add(cells ...string) {
	for i, cell := range cells {
		cells[i] = oneLine(cell) // names come from files, and a terminal obeys control characters
	}
	t.rows = append(t.rows, cells)
}

func (t *table) print(out io.Writer) error {
	width := make([]int, len(t.columns))
	number := make([]bool, len(t.columns))
	for i, c := range t.columns {
		width[i], number[i] = utf8.RuneCountInString(c), len(t.rows) > 0
		for _, row := range t.rows {
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
			number[i] = number[i] && isNumber(row[i])
		}
	}
	var b strings.Builder
	for _, row := range append([][]string{t.columns}, t.rows...) {
		line := ""
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if number[i] {
				line += pad + cell + "  "
			} else {
				line += cell + pad + "  "
			}
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789,") == "" }

// thousands writes a count the way people read it: 93,564.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// stamp writes an instant as every output of carrel does: RFC 3339 in UTC, microseconds only when there are any.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return string(appendTime(nil, t))
}

func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().Truncate(time.Microsecond).AppendFormat(b, "2006-01-02T15:04:05.999999Z07:00")
}
