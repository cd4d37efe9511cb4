package sqlite

import (
	"net/url"
	"path/filepath"
	"strings"
)

// Pragmas returns the settings that a connection that writes should have, as they stand after the word
// PRAGMA. Without secure_delete the file keeps what was deleted.
func Pragmas() []string {
	return []string{
		"journal_mode(WAL)", // readers and the one writer do not wait for each other
		"secure_delete(ON)", // what is deleted is overwritten with zeros
		"synchronous(FULL)", // a receipt that was written survives a power cut
		"busy_timeout(10000)",
		"temp_store(MEMORY)",       // no copies of rows in temporary files
		"cache_size(-8000)",        // KiB; the index pages that a page of a sweep touches fit
		"wal_autocheckpoint(4000)", // pages: a log of 16 MiB saves writing a page once for each batch that touches it
	}
}

// DSN returns the data source name with which the driver modernc.org/sqlite opens the file at path, and
// creates it if need be, with all [Pragmas] and with transactions that take the write lock at once.
func DSN(path string) string {
	return "file:" + escape(path) + "?_txlock=immediate" + pragmas(Pragmas())
}

// DSNReadOnly is like [DSN] for a connection that cannot write.
func DSNReadOnly(path string) string {
	return "file:" + escape(path) + "?mode=ro" + pragmas([]string{
		"busy_timeout(10000)", "query_only(ON)", "temp_store(MEMORY)", "cache_size(-8000)"})
}

func pragmas(list []string) string {
	var b strings.Builder
	for _, p := range list {
		b.WriteString("&_pragma=" + url.QueryEscape(p))
	}
	return b.String()
}

// escape writes a path as the path of a SQLite URI, in which ?, # and % have a meaning.
func escape(path string) string {
	path = filepath.ToSlash(filepath.Clean(path))
	if filepath.VolumeName(path) != "" && !strings.HasPrefix(path, "/") {
		path = "/" + path // C:/x is written file:/C:/x
	}
	return (&url.URL{Path: path}).EscapedPath()
}
