package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// A rowReader reads an export row by row, under the column names of the export.
type rowReader struct {
	name   string
	size   int64        // of the file as it lies on the disk; 0: not known
	read   func() int64 // how much of that has been read
	header []string     // CSV only; JSON Lines have keys of their own in every row
	next   func() (rawRow, error)
	close  func() error
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
func openRows(name string) (*rowReader, error) {
	format := strings.TrimSuffix(strings.ToLower(name), ".gz")
	isCSV := strings.HasSuffix(format, ".csv")
	if !isCSV && !strings.HasSuffix(format, ".jsonl") && !strings.HasSuffix(format, ".ndjson") {
		return nil, fmt.Errorf("%s: the name says not what it is; want .csv, .csv.gz, .jsonl or .jsonl.gz", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, reason(err))
	}
	r := &rowReader{name: name}
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		r.size = info.Size()
	}
	counted := &countedFile{File: f}
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
	*os.File
	n int64
}

func (c *countedFile) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
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
	c := csv.NewReader(in)
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
	value := func(column string) (string, bool) {
		i, ok := index[column]
		if !ok {
			return "", false
		}
		if v := record[i]; v != `\N` && v != "NULL" { // MySQL's words for nothing; nobody is called NULL
			return v, true
		}
		return "", true
	}
	keys := func() []string { return r.header }
	r.next = func() (rawRow, error) {
		var err error
		record, err = c.Read()
		if err != nil {
			return rawRow{}, csvFault(err)
		}
		line, _ := c.FieldPos(0)
		return rawRow{line, value, keys}, nil
	}
	return nil
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
			if object, err = flatObject(s.Bytes()); err != nil {
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
func flatObject(line []byte) (map[string]string, error) {
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
			return nil, fmt.Errorf("key %.64q appears twice", key)
		}
		var v any
		if err := d.Decode(&v); err != nil {
			return nil, errors.New("not JSON")
		}
		if object[key], err = flatValue(v); err != nil {
			return nil, fmt.Errorf("key %.64q: %w", key, err)
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
