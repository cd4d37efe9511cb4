package main

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzFlatObject(f *testing.F) {
	for _, s := range []string{`{}`, `{"loan":"l1","borrower":null,"lost":true,"renewals":2,"categories":["a","b"]}`, `{"a":1,"a":2}`, `{"a":{}}`, `[`, `{"a"`, "{\"a\":\"\\u0000\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		object, err := flatObject(line, func(string) bool { return true })
		if err == nil && object == nil {
			t.Error("neither an object nor an error")
		}
	})
}

func FuzzMapping(f *testing.F) {
	for _, s := range []string{concertoMap, "loans: {lost: {column: a, is: b}}", "loans: {lost: {column: a, values: {x: y}, otherwise: ~}}", "a: &a {b: *a}", "loans: [", "? {a: b}\n: c", "loans:\n  lost: ~"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := parseMapping(data)
		if err != nil {
			return
		}
		for _, columns := range m {
			for _, s := range columns {
				s.read(func(string) string { return "x" })
			}
		}
	})
}

// Amounts are money: what is read must be what was written.
func FuzzAmount(f *testing.F) {
	for _, s := range []string{"0", "12", "12.5", "-12.50", "1,50", "92233720368547758.07", "1.", ".5", "--1", "1e3", "٣"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := &row{value: func(string) string { return s }}
		a := r.amount("amount")
		if r.err != nil || strings.TrimSpace(s) == "" {
			return
		}
		back := &row{value: func(string) string { return formatAmount(int64(a)) }}
		if b := back.amount("amount"); b != a || back.err != nil {
			t.Errorf("%q is read as %d, and that as %d (%v)", s, a, b, back.err)
		}
	})
}

func formatAmount(a int64) string {
	sign := ""
	if a < 0 {
		sign, a = "-", -a
	}
	cents := "0" + thousands(int(a%100))
	return sign + strings.ReplaceAll(thousands(int(a/100)), ",", "") + "." + cents[len(cents)-2:]
}

// What is well formed loses nothing when it is decoded.
func FuzzWellFormed(f *testing.F) {
	for _, s := range []string{`"a"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\\ud83d"`, `"\ude00\ud83d"`, "\"\xff\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		var s string
		if json.Unmarshal(line, &s) != nil {
			return
		}
		written := strings.Contains(string(line), "\ufffd") || strings.Contains(strings.ToLower(string(line)), `\ufffd`)
		if lost := strings.Contains(s, "\ufffd") && !written; lost && wellFormed(line) == nil {
			t.Errorf("%q is read as %q", line, s)
		} else if utf8.Valid(line) && !strings.Contains(s, "\ufffd") && wellFormed(line) != nil {
			t.Errorf("%q is refused", line)
		}
	})
}
