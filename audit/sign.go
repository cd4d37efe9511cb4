package audit

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// A statement is a text that the trail's key signs besides checkpoints: a certificate of an erasure, say. It is a signed note (https://c2sp.org/signed-note) whose first line is "carrel-", its kind and a
// space and a version, and so none of a checkpoint's.

// ErrStatement means that a text is no statement of that kind, or was not signed by the trail's key as it stands.
var ErrStatement = errors.New("audit: not a statement that this key has signed, or changed since")

func statementHead(kind string) string { return "carrel-" + kind + " 1\n" }

// Sign signs a statement of a kind, which is one lower-case word. The text is printable UTF-8 and lines.
func (t *Trail) Sign(kind, text string) ([]byte, error) {
	if kind == "" || strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz") != "" {
		return nil, errors.New("audit: the kind of a statement is one lower-case word")
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	signed, err := note.Sign(&note.Note{Text: statementHead(kind) + text}, t.signer)
	if err != nil {
		return nil, fmt.Errorf("audit: a statement is printable text: %w", err)
	}
	return signed, nil
}

// OpenStatement checks a statement with the text that [VerifierKey] returns, and returns what was signed. It needs no keyring.
//
// Errors: [ErrStatement].
func OpenStatement(kind string, signed []byte, verifierKey string) (string, error) {
	verifier, err := note.NewVerifier(verifierKey)
	if err != nil {
		return "", errors.New("audit: not a key as VerifierKey writes it")
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return "", ErrStatement
	}
	text, ok := strings.CutPrefix(n.Text, statementHead(kind))
	if !ok {
		return "", ErrStatement
	}
	return text, nil
}
