package redis

import (
	"context"

	goredis "github.com/redis/go-redis/v9"
)

// A script is Lua that the server runs in one atomic step.
type script struct{ source, hash any } // strings

func newScript(source string) *script {
	return &script{source, goredis.NewScript(source).Hash()}
}

// A resend says whether the client may send a command again of which it does not know whether the server had it.
type resend bool

const (
	once  resend = false
	again resend = true
)

// A single command is one that go-redis does not send again.
type single struct{ *goredis.Cmd }

// NoRetry is what go-redis asks before it does.
func (single) NoRetry() bool { return true }

// run runs a script.
func (l *Lockouts) run(ctx context.Context, op string, s *script, how resend, r request) (any, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.line[0], r.line[1], r.line[2] = "evalsha", s.hash, r.keys
	reply, err := l.send(ctx, how, r.line)
	if err != nil && goredis.HasErrorPrefix(err, "NOSCRIPT") { // the server is new to it, or began again
		r.line[0], r.line[1] = "eval", s.source
		reply, err = l.send(ctx, how, r.line)
	}
	if err != nil {
		return nil, failed(ctx, op, err)
	}
	return reply, nil
}

func (l *Lockouts) send(ctx context.Context, how resend, line []any) (any, error) {
	cmd := goredis.NewCmd(ctx, line...)
	var sent goredis.Cmder = cmd
	if how == once {
		sent = single{cmd}
	}
	if err := l.client.Process(ctx, sent); err != nil {
		return nil, err
	}
	return cmd.Result()
}

// text runs a script that answers with a string.
func (l *Lockouts) text(ctx context.Context, op string, s *script, how resend, r request) (string, error) {
	reply, err := l.run(ctx, op, s, how, r)
	if err != nil {
		return "", err
	}
	text, ok := reply.(string)
	if !ok {
		return "", &Error{Op: op}
	}
	return text, nil
}
