package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A rowReader reads an export row by row, under the column names of the export.
type rowReader struct {
	name   string
	size   int64        // of the file as it lies on the disk; 0: not known
	read   func() int64 // how much of that has been read
	header []string     // CSV only; JSON Lines have keys of their own in every row
	next   func() (rawRow, error)
	close  func() error
	known  func(key string) bool // JSON Lines: keys that may be repeated in a message
}

// A rawRow is one row. It is valid until the next one is read.
type rawRow struct {
	line  int
	value func(column string) (string, bool)
	keys  func() []string // its columns
}

// A rowError is a defect of one row; the rows after it can be read.
type rowError struct {
	line    int
	message string
}

func (e *rowError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.message) }

// openRows opens a CSV or JSON Lines file, gzipped or not, and reads a CSV file's header.
func openRows(ctx context.Context, name string) (*rowReader, error) {
	format := strings.TrimSuffix(strings.ToLower(name), ".gz")
	isCSV := strings.HasSuffix(format, ".csv")
	if !isCSV && !strings.HasSuffix(format, ".jsonl") && !strings.HasSuffix(format, ".ndjson") {
		return nil, fmt.Errorf("%s: the name says not what it is; want .csv, .csv.gz, .jsonl or .jsonl.gz", name)
	}
	f, err := openFile(ctx, name)
	if err != nil {
		return nil, err
	}
	r := &rowReader{name: name, known: func(string) bool { return false }}
	counted := &countedFile{Reader: f, Closer: f}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		r.size = info.Size()
	} else {
		counted.Reader = interruptible{ctx, f} // a pipe may be silent for ever
	}
	r.read = func() int64 { return counted.n }
	in, err := unpack(counted, name)
	if err != nil {
		return nil, err
	}
	r.close = in.Close
	text := bufio.NewReaderSize(in, 64<<10)
	if err := checkText(text); err != nil {
		in.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if isCSV {
		err = r.csv(text)
	} else {
		r.jsonLines(text)
	}
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return r, nil
}

// A countedFile knows how much was read of it, for the progress bar.
type countedFile struct {
	io.Reader
	io.Closer
	n int64
}

func (c *countedFile) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// checkText skips a byte order mark and refuses what is not a text in UTF-8 at first sight.
func checkText(in *bufio.Reader) error {
	start, err := in.Peek(3)
	switch {
	case len(start) == 0 && errors.Is(err, io.EOF):
		return errors.New("the file is empty; want a header line with the names of the columns, or JSON Lines")
	case len(start) == 0:
		return reason(err)
	case bytes.HasPrefix(start, []byte("\xff\xfe")), bytes.HasPrefix(start, []byte("\xfe\xff")):
		return errors.New("the file is UTF-16; save it as UTF-8")
	case bytes.Equal(start, []byte("\ufeff")):
		in.Discard(3)
	}
	return nil
}

func (r *rowReader) csv(in io.Reader) error {
	limited := &rowLimit{r: in, left: maxLine}
	c := csv.NewReader(limited)
	c.ReuseRecord = true
	header, err := c.Read()
	if errors.Is(err, io.EOF) {
		return errors.New("the file is empty; want a header line with the names of the columns")
	}
	if err != nil {
		return csvFault(err)
	}
	index := make(map[string]int, len(header))
	for i, name := range header {
		name = strings.TrimSpace(name)
		if first, ok := index[name]; ok && name != "" {
			// Without their name: what stands there may be no header at all but somebody's loan.
			return fmt.Errorf("line 1: columns %d and %d have the same name", first+1, i+1)
		}
		index[name] = i
		r.header = append(r.header, name)
	}
	if len(header) == 1 && strings.ContainsAny(header[0], ";\t|") {
		return errors.New("line 1: the columns are not separated by commas; export the file with commas")
	}
	var record []string
	line := 1
	value := func(column string) (string, bool) {
		i, ok := index[column]
		if !ok {
			return "", false
		}
		v := strings.TrimSpace(record[i])
		if v == `\N` || v == "NULL" { // MySQL's words for nothing; nobody is called NULL
			v = ""
		}
		return v, true
	}
	keys := func() []string { return r.header }
	r.next = func() (rawRow, error) {
		var err error
		limited.left = maxLine
		record, err = c.Read()
		if errors.Is(err, errLongRow) {
			return rawRow{}, fmt.Errorf("after line %d: %w", line, err)
		}
		if err != nil {
			return rawRow{}, csvFault(err)
		}
		line, _ = c.FieldPos(0)
		return rawRow{line, value, keys}, nil
	}
	return nil
}

var errLongRow = fmt.Errorf("more than %d MiB without an end; that is not a row, and a quotation mark may be missing", maxLine>>20)

// A rowLimit ends a row that goes on and on. Whoever reads rows from it sets left before each.
type rowLimit struct {
	r    io.Reader
	left int
}

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errLongRow
	}
	n, err := l.r.Read(p)
	l.left -= n
	return n, err
}

// csvFault makes a defect of one row a rowError. The library's messages never contain a value.
func csvFault(err error) error {
	var p *csv.ParseError
	switch {
	case err == io.EOF:
		return err
	case !errors.As(err, &p):
		return reason(err)
	case errors.Is(p.Err, csv.ErrFieldCount):
		return &rowError{p.Line, "not as many fields as the header has columns"}
	}
	return &rowError{p.StartLine, fmt.Sprintf("not CSV: %v", p.Err)}
}

func (r *rowReader) jsonLines(in io.Reader) {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 64<<10), maxLine)
	var object map[string]string
	value := func(column string) (string, bool) { v, ok := object[column]; return v, ok }
	keys := func() []string { return slices.Collect(maps.Keys(object)) }
	line := 0
	r.next = func() (rawRow, error) {
		for s.Scan() {
			line++
			if len(bytes.TrimSpace(s.Bytes())) == 0 {
				continue
			}
			var err error
			if object, err = flatObject(s.Bytes(), r.known); err != nil {
				return rawRow{}, &rowError{line, err.Error()}
			}
			return rawRow{line, value, keys}, nil
		}
		switch err := s.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			return rawRow{}, fmt.Errorf("line %d: more than %d MiB; that is not a row", line+1, maxLine>>20)
		case err != nil:
			return rawRow{}, reason(err)
		}
		return rawRow{}, io.EOF
	}
}

// flatObject reads an object of strings, numbers, booleans, nulls and lists of strings (joined by
// semicolons, as in CSV). A repeated key is an error: which of the two borrowers would it be?
// Messages repeat a key only if it is known, because others may be somebody's.
func flatObject(line []byte, known func(key string) bool) (map[string]string, error) {
	if err := wellFormed(line); err != nil {
		return nil, err
	}
	shown := func(key string) string {
		if known(key) {
			return fmt.Sprintf("key %q", key)
		}
		return "a key"
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	object := map[string]string{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, errors.New("not JSON")
		}
		key := t.(string) // the decoder accepts nothing else here
		if _, ok := object[key]; ok {
			return nil, fmt.Errorf("%s appears twice", shown(key))
		}
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, errors.New("not JSON")
		}
		if object[key], err = flatValue(v); err != nil {
			return nil, fmt.Errorf("%s: %w", shown(key), err)
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, errors.New("not JSON: the object does not end")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("not JSON: something follows the object")
	}
	return object, nil
}

// wellFormed refuses what the decoder would replace by U+FFFD: two people could become one.
func wellFormed(line []byte) error {
	if !utf8.Valid(line) {
		return errors.New("not UTF-8; export the file as UTF-8")
	}
	high := -1 // where the second half of a character must begin
	for i := 0; i < len(line); i++ {
		if line[i] != '\\' {
			continue
		}
		var code uint64
		if i++; i+5 <= len(line) && line[i] == 'u' {
			code, _ = strconv.ParseUint(string(line[i+1:i+5]), 16, 16) // what is no number is no JSON
		}
		switch first := code >= 0xd800 && code < 0xdc00; {
		case code >= 0xdc00 && code < 0xe000:
			if high != i-1 {
				return errHalf
			}
			high = -1
		case high >= 0:
			return errHalf
		case first:
			high = i + 5
		}
		if high >= 0 && (high >= len(line) || line[high] != '\\') {
			return errHalf
		}
	}
	return nil
}

var errHalf = errors.New(`a \u escape is half of a character`)

func flatValue(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		if v {
			return "yes", nil
		}
		return "no", nil
	case []any:
		var parts []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok || strings.Contains(s, ";") {
				return "", errors.New("want a list of strings without semicolons")
			}
			parts = append(parts, s)
		}
		return strings.Join(parts, ";"), nil
	}
	return "", errors.New("want a plain value, not an object")
}
