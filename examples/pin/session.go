package main

import (
	"crypto/rand"
	"maps"
	"net/http"
	"sync"
	"time"
)

// A session is who is logged in. It ends at a fixed time, however busy its owner is.
type session struct {
	patron string
	ends   time.Time
}

const sessionLife = 30 * time.Minute

// Sessions are kept in memory, and end with the process.
type sessions struct {
	now func() time.Time
	mu  sync.Mutex
	of  map[string]session // by what is in the cookie
}

// begin always takes a new ID, so that nobody can prepare one for somebody else.
func (s *sessions) begin(patron string) (id string) {
	id = rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	maps.DeleteFunc(s.of, func(_ string, old session) bool { return !now.Before(old.ends) })
	s.of[id] = session{patron, now.Add(sessionLife)}
	return id
}

// patron returns who is logged in, or "".
func (s *sessions) patron(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if found := s.of[id]; s.now().Before(found.ends) {
		return found.patron
	}
	return ""
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, id)
}

// sessionCookie returns the cookie for a session ID; for "", one that takes it away. With the prefix, browsers take it from this host only, and by HTTPS only.
func sessionCookie(id string, secure bool) *http.Cookie {
	c := &http.Cookie{Name: "session", Value: id, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode}
	if secure {
		c.Name = "__Host-session"
	}
	if id == "" {
		c.MaxAge = -1
	}
	return c
}
