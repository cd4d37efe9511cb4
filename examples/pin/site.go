package main

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"runtime/debug"
	"time"
)

//go:embed page.html style.css
var files embed.FS

// A Site is three pages: the form, the form after a login that failed, and the account.
type Site struct {
	http.Handler
	login    Login
	name     func(id string) string
	sessions *sessions
	page     *template.Template
	form     []byte
	refused  []byte // written once, so that nothing that depends on the login can get into it
}

// A view is what page.html shows.
type view struct {
	Patron  string // nobody is logged in if it is empty
	Refused bool
}

// maxForm is more than any login and PIN need.
const maxForm = 4 << 10

// NewSite returns the pages around a login. Name is what an account is called on them.
func NewSite(login Login, name func(id string) string, now func() time.Time) (*Site, error) {
	page, err := template.ParseFS(files, "page.html")
	if err != nil {
		return nil, err
	}
	s := &Site{login: login, name: name, sessions: &sessions{now: now, of: map[string]session{}}, page: page}
	if s.form, err = s.render(view{}); err != nil {
		return nil, err
	}
	if s.refused, err = s.render(view{Refused: true}); err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.start)
	mux.HandleFunc("POST /login", s.logIn)
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusSeeOther) }) // a page that failed, asked for again
	mux.HandleFunc("POST /logout", s.logOut)
	mux.HandleFunc("GET /style.css", func(w http.ResponseWriter, r *http.Request) { http.ServeFileFS(w, r, files, "style.css") })
	// Another site's form must not log anybody in or out: browsers say where a form came from.
	s.Handler = headers(http.NewCrossOriginProtection().Handler(mux))
	return s, nil
}

// headers lets the pages load nothing but their style, and stand in nobody's frame.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Cache-Control", "no-store")      // the next one at this device does not find the account with the back button
		h.Set("Referrer-Policy", "same-origin") // and not no-referrer, with which browsers write "Origin: null" on our own form
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

func (s *Site) start(w http.ResponseWriter, r *http.Request) {
	id := s.sessions.patron(s.session(r))
	if id == "" {
		write(w, http.StatusOK, s.form)
		return
	}
	page, err := s.render(view{Patron: s.name(id)})
	if err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	write(w, http.StatusOK, page)
}

func (s *Site) logIn(w http.ResponseWriter, r *http.Request) {
	id, ok := s.check(w, r)
	if !ok {
		// The one answer for all that is not a login: the PIN was wrong, the login is nobody's, it is locked, the store is down. 403, because a 401
		// would have to come with a WWW-Authenticate header (RFC 9110, section 15.5.2).
		write(w, http.StatusForbidden, s.refused)
		return
	}
	s.login.Remember(w, r, id)
	s.sessions.end(s.session(r))
	http.SetCookie(w, sessionCookie(s.sessions.begin(id), s.login.secure(r)))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// check turns a panic into a login that failed: net/http would hang up, which is another answer. The guess was reserved before and stays counted.
func (s *Site) check(w http.ResponseWriter, r *http.Request) (id string, ok bool) {
	defer func() {
		if p := recover(); p != nil { // its value is not written down: a PIN may be in it
			s.login.Log.Error("a login panicked", "stack", string(debug.Stack()))
			id, ok = "", false
		}
	}()
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return "", false
	}
	return s.login.Check(r, r.PostForm.Get("login"), r.PostForm.Get("pin"))
}

func (s *Site) logOut(w http.ResponseWriter, r *http.Request) {
	s.sessions.end(s.session(r))
	http.SetCookie(w, sessionCookie("", s.login.secure(r)))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// session returns the ID in the cookie, or "".
func (s *Site) session(r *http.Request) string {
	c, err := r.Cookie(sessionCookie("", s.login.secure(r)).Name)
	if err != nil {
		return ""
	}
	return c.Value
}

func (s *Site) render(v view) ([]byte, error) {
	var b bytes.Buffer
	err := s.page.Execute(&b, v)
	return b.Bytes(), err
}

func write(w http.ResponseWriter, status int, page []byte) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	w.Write(page)
}
