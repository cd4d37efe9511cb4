package main

import (
	"encoding/csv"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/carrel-project/carrel/audit"
)

// A reportColumn is a field of a row.
type reportColumn struct {
	name  string
	index []int
}

func columnsOf(t reflect.Type) (columns []reportColumn) {
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "-" || name == "" {
			continue
		}
		columns = append(columns, reportColumn{name, f.Index})
	}
	return columns
}

// cells returns a row as texts, with times written by at.
func cells(columns []reportColumn, row reflect.Value, at func(time.Time) string) []string {
	out := make([]string, len(columns))
	for i, c := range columns {
		switch v := row.FieldByIndex(c.index).Interface().(type) {
		case time.Time:
			out[i] = at(v)
		case []string:
			out[i] = strings.Join(v, ", ")
		case bool:
			if v {
				out[i] = "yes"
			}
		default:
			out[i] = fmt.Sprint(v)
		}
	}
	return out
}

// printed writes rows as CSV, whole, or as a table that fits on a screen.
func printed[Row any](r *reporting, list []Row) error {
	columns := columnsOf(reflect.TypeFor[Row]())
	if !r.flags.csv {
		return printTable(r, columns, list)
	}
	w := csv.NewWriter(r.cmd.OutOrStdout())
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	w.Write(names)
	for i := range list {
		row := cells(columns, reflect.ValueOf(list[i]), stamp)
		for n := range row {
			row[n] = harmless(row[n])
		}
		w.Write(row)
	}
	w.Flush()
	return w.Error()
}

// printTable leaves out columns in which nothing stands and those that say the same of all rows, and writes times to the second. What happened on one day
// to one patron is one row with a number.
func printTable[Row any](r *reporting, columns []reportColumn, list []Row) error {
	out := r.cmd.OutOrStdout()
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "nothing")
		return err
	}
	var rows [][]string
	for i := range list {
		row := cells(columns, reflect.ValueOf(list[i]), func(t time.Time) string { return stamp(t.Truncate(time.Second)) })
		if v, ok := any(list[i]).(audit.ViewRow); ok && !v.Until.IsZero() {
			row[columnAt(columns, "until")] = "+" + shortly(v.Until.Sub(v.Time))
		}
		rows = append(rows, row)
	}
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = c.name
	}
	if _, ok := any(list[0]).(audit.SeenRow); ok {
		names, rows = together(append(names, "times"), rows)
	}
	channel := ""
	if _, ok := any(list[0]).(audit.ViewRow); ok && len(rows) > 1 {
		channel = same(rows, columnAt(columns, "channel"))
	}
	t := table{}
	var shown []int
	for i, name := range names {
		all := same(rows, i)
		switch {
		case !slices.ContainsFunc(rows, func(row []string) bool { return row[i] != "" }),
			name == "times" && (all == "0" || all == "×1"), name == "subject" && r.about != "", name == "channel" && channel != "":
			continue
		}
		shown = append(shown, i)
		t.columns = append(t.columns, strings.ToUpper(strings.ReplaceAll(name, "_", "-")))
	}
	for _, row := range rows {
		line := make([]string, len(shown))
		for j, i := range shown {
			line[j] = row[i]
		}
		t.add(line...)
	}
	if err := t.print(out); err != nil || channel == "" {
		return err
	}
	_, err := fmt.Fprintf(out, "channel of all: %s\n", oneLine(channel))
	return err
}

// shortly writes 30m0s as 30m.
func shortly(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		return strings.TrimSuffix(s, "0s")
	}
	return s
}

func columnAt(columns []reportColumn, name string) int {
	return slices.IndexFunc(columns, func(c reportColumn) bool { return c.name == name })
}

// same returns what stands in all cells of a column, "" when they differ.
func same(rows [][]string, column int) string {
	for _, row := range rows[1:] {
		if row[column] != rows[0][column] {
			return ""
		}
	}
	return rows[0][column]
}

// together makes one row of equal ones, and adds how many they were.
func together(names []string, rows [][]string) ([]string, [][]string) {
	var merged [][]string
	times, at := []int{}, map[string]int{}
	for _, row := range rows {
		key := strings.Join(row, "\x00")
		i, ok := at[key]
		if !ok {
			i = len(merged)
			at[key] = i
			merged, times = append(merged, row), append(times, 0)
		}
		times[i]++
	}
	for i := range merged {
		merged[i] = append(merged[i], fmt.Sprint("×", times[i]))
	}
	return names, merged
}

// harmless keeps a spreadsheet from taking a reference for a formula: whoever logs in may choose it.
func harmless(cell string) string {
	cell = oneLine(cell)
	if cell != "" && strings.ContainsRune("=+-@", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}
