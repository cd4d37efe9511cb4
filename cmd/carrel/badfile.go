package main

import (
	"errors"
	"fmt"

	"github.com/carrel-project/carrel/access"
	"github.com/carrel-project/carrel/anonymize"
)

// A badFile is what is wrong with a policy or an access file, with the name of the file, in the form that editors jump to.
type badFile struct {
	file   string
	defect fileDefect
}

// A fileDefect is an error in a file, for people who read JSON.
type fileDefect struct {
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Key     string `json:"key,omitempty"`
	Message string `json:"message"`
}

// A fileWarning is what a file may not have meant.
type fileWarning struct {
	Line    int    `json:"line"`
	Message string `json:"message"`
}

func (b *badFile) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", b.file, b.defect.Line, b.defect.Column, b.defect.Message)
}

func fileProblem(file string, err error) error {
	var p *anonymize.PolicyError
	var a *access.Error
	switch {
	case errors.As(err, &p):
		return &badFile{file, fileDefect(*p)}
	case errors.As(err, &a):
		return &badFile{file, fileDefect(*a)}
	}
	return fmt.Errorf("%s: %w", file, err)
}
