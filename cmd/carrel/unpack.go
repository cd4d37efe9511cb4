package main

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
)

// unpack returns what is in a file or a stream, decompressed when it is gzip, whatever its name says.
func unpack(in io.ReadCloser, name string) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(in, 256<<10)
	magic, err := buffered.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		in.Close()
		return nil, fmt.Errorf("%s: %w", name, reason(err)) // a directory is found out here
	}
	if string(magic) != "\x1f\x8b" {
		return unpacked{buffered, in}, nil
	}
	z, err := gzip.NewReader(buffered)
	if err != nil {
		in.Close()
		return nil, fmt.Errorf("%s: %w", name, damaged(err))
	}
	return unpacked{gunzip{z}, in}, nil
}

type unpacked struct {
	io.Reader
	io.Closer
}

// gunzip says of an error that it is about the compression. An io.ErrUnexpectedEOF in particular must not
// be taken for the end of the file by io.ReadFull's callers: half an export is not an export.
type gunzip struct{ z *gzip.Reader }

func (g gunzip) Read(p []byte) (int, error) {
	n, err := g.z.Read(p)
	if err != nil && err != io.EOF {
		err = damaged(err)
	}
	return n, err
}

func damaged(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errors.New("the compressed data ends too early; copy or export the file again")
	}
	if errors.Is(err, gzip.ErrChecksum) || errors.Is(err, gzip.ErrHeader) {
		return fmt.Errorf("the compressed data is damaged (%v); copy or export the file again", err)
	}
	return reason(err)
}
