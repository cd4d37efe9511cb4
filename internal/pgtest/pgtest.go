//go:build unix

package pgtest

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// Variable is the environment variable that names a database that tests may write to. Without it, no server is started either.
const Variable = "CARREL_TEST_POSTGRES"

// A Server is a PostgreSQL cluster that belongs to one test, which may crash it. It listens on a free port of 127.0.0.1 and on a socket in its folder, and asks for a random password: its
// superuser may run programs as whoever runs the tests.
type Server struct {
	t        testing.TB
	bin, dir string // where the programs are, and everything of the cluster
	port     int
	password string
	as       *syscall.Credential // nil: whoever runs the tests
	watch    *exec.Cmd           // stops the server and removes the folder, when alive is closed
	alive    io.Closer
	stop     sync.Once
}

// Start makes a cluster with the settings, as in "synchronous_commit = off", over those that initdb chooses, and starts it. It ends with the test, also if that fails, panics or is killed.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	if os.Getenv(Variable) == "" {
		t.Skip("SKIPPED, NOTHING WAS TESTED: a server of the test's own is started only where " + Variable + " is set")
	}
	bin := serverPrograms()
	if bin == "" {
		t.Skip("SKIPPED, NOTHING WAS TESTED: there is no initdb to make a cluster with, as " + Variable + " asks for: install PostgreSQL's server")
	}
	s := &Server{t: t, bin: bin, password: rand.Text()}
	dir, err := os.MkdirTemp("", "carrel-pg-") // not t.TempDir, which only its owner may enter; and a socket's path must be short
	must(t, err, "")
	s.dir = dir
	t.Cleanup(s.Stop)
	if os.Geteuid() == 0 { // as whom PostgreSQL refuses to run
		u, err := user.Lookup("postgres")
		must(t, err, "")
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		must(t, err, "")
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		must(t, err, "")
		s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		must(t, os.Chown(dir, int(uid), int(gid)), "")
	}
	s.watchOver()
	pass := filepath.Join(dir, "password")
	must(t, os.WriteFile(pass, []byte(s.password), 0o600), "")
	if s.as != nil {
		must(t, os.Chown(pass, int(s.as.Uid), int(s.as.Gid)), "")
	}
	// What initdb writes need not outlive the machine, only the server; what the server writes is synced.
	s.run("initdb", "--pgdata", s.data(), "--username", "postgres", "--auth", "scram-sha-256", "--pwfile", pass, "--encoding", "UTF8", "--locale", "C", "--no-sync")
	text := strings.Join(append([]string{"", "listen_addresses = '127.0.0.1'", "unix_socket_directories = '" + dir + "'", "fsync = on", "shared_buffers = 32MB"}, settings...), "\n") + "\n"
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err, "")
	_, err = f.WriteString(text)
	must(t, err, "")
	must(t, f.Close(), "")
	for try := 0; ; try++ { // somebody may take the port in between
		s.port = freePort(t)
		out, err := s.command("pg_ctl", s.control("start")...).CombinedOutput()
		if err == nil {
			return s
		}
		if try == 3 {
			t.Fatalf("the server does not start: %s\n%s", out, s.log())
		}
	}
}

// serverPrograms returns the folder of initdb and pg_ctl, or nothing.
func serverPrograms() string {
	var folders []string
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err = filepath.EvalSymlinks(p); err == nil {
			folders = append(folders, filepath.Dir(p))
		}
	}
	if out, err := exec.Command("pg_config", "--bindir").Output(); err == nil {
		folders = append(folders, strings.TrimSpace(string(out)))
	}
	debian, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // which are not on PATH
	slices.SortFunc(debian, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(b, a)) })
	for _, folder := range append(folders, debian...) {
		_, err := os.Stat(filepath.Join(folder, "initdb"))
		_, err2 := os.Stat(filepath.Join(folder, "pg_ctl"))
		if err == nil && err2 == nil {
			return folder
		}
	}
	return ""
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err, "")
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(text[max(0, len(text)-4000):])
}

// control returns arguments of pg_ctl, which waits until it is done.
func (s *Server) control(verb string, args ...string) []string {
	return append([]string{verb, "--pgdata", s.data(), "--log", filepath.Join(s.dir, "log"), "--wait", "--timeout", "60", "--silent", "--options", fmt.Sprint("-p ", s.port)}, args...)
}

func (s *Server) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, program), args...)
	cmd.Dir = s.dir // the tests' own is not everybody's to enter
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

func (s *Server) run(program string, args ...string) {
	s.t.Helper()
	out, err := s.command(program, args...).CombinedOutput()
	must(s.t, err, "%s: %s\n%s", program, out, s.log())
}

// watchOver starts a process that waits until this one ends, however that comes about: no cleanup runs when a test binary is killed or its time is up.
func (s *Server) watchOver() {
	s.watch = exec.Command("sh", "-c", `trap '' INT TERM HUP
cat >/dev/null
[ ! -f "$2/data/postmaster.pid" ] || "$1" stop --pgdata "$2/data" --mode immediate --wait --timeout 30 --silent
cd / && rm -rf "$2"`, "sh", filepath.Join(s.bin, "pg_ctl"), s.dir)
	s.watch.Dir = s.dir
	s.watch.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setsid: true}
	alive, err := s.watch.StdinPipe()
	must(s.t, err, "")
	s.alive = alive
	must(s.t, s.watch.Start(), "")
}

// DSN is the URL of the database with the schema in its search path. It does not make the schema.
func (s *Server) DSN(schema string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", s.password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "/postgres"}
	q := url.Values{"sslmode": {"disable"}}
	if schema != "" {
		q.Set("search_path", schema)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// RestartImmediate crashes the server, as if the machine had lost its power but for what the operating system has not written yet, and returns when it has recovered and takes connections again.
func (s *Server) RestartImmediate() {
	s.t.Helper()
	s.run("pg_ctl", s.control("restart", "--mode", "immediate")...)
}

// Crash stops the server without letting it write anything, and Start starts it again.
func (s *Server) Crash() {
	s.t.Helper()
	s.run("pg_ctl", "stop", "--pgdata", s.data(), "--mode", "immediate", "--wait", "--timeout", "60", "--silent")
}

// Start starts a server that was stopped with Crash.
func (s *Server) Start() {
	s.t.Helper()
	s.run("pg_ctl", s.control("start")...)
}

// Stop ends the server for good and removes what it wrote. It is called when the test ends.
func (s *Server) Stop() {
	s.stop.Do(func() {
		if s.t.Failed() {
			s.t.Logf("the server's log: %s", s.log())
		}
		if s.watch != nil && s.watch.Process != nil {
			s.alive.Close()
			s.watch.Wait()
		}
		os.RemoveAll(s.dir) // if it never came to the watch
	})
}

// Dir is the folder that holds everything of the cluster.
func (s *Server) Dir() string { return s.dir }

// Port is the port of 127.0.0.1 on which the server listens.
func (s *Server) Port() int { return s.port }

// Program returns the path of a client program of the server's own version, such as pg_dump, which refuses a server that is newer than it.
func (s *Server) Program(name string) string {
	s.t.Helper()
	path := filepath.Join(s.bin, name)
	if _, err := os.Stat(path); err != nil {
		s.t.Skip("SKIPPED, NOTHING WAS TESTED: there is no " + name + " beside the server that " + Variable + " asks for: install PostgreSQL's client programs")
	}
	return path
}
