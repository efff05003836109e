package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/testing/dirlock"
	"flexworker/internal/testing/faultproxy"
)

// Options of a server. The zero value is a server in a temporary folder that Stop removes.
type Options struct {
	// Dir is where the data is kept from one start to the next. Empty: a temporary folder. As root its parents must be
	// open to other users, since Postgres does not run as root.
	Dir string
	// Port on 127.0.0.1. 0: any free one, below the range of outgoing connections, so that it can be had back.
	Port int
	// Settings as in postgresql.conf, over ours: {"fsync": "off"}.
	Settings map[string]string
	// StandbyOf is the server whose data this one copies and follows, as a hot standby. Nil: it is a server by itself.
	StandbyOf *Server
	// Env is added to the environment of the server's processes, such as LD_PRELOAD.
	Env []string
	// Log gets what Postgres writes. Nil: nobody, but an error of Start or Restart quotes its end.
	Log io.Writer

	memory bool   // a temporary folder may be one in memory
	copyOf string // the data folder that its own begins as; empty: what initdb makes
}

// Server is one Postgres server and its data. Its methods may be called by anyone at any time; they wait for each other.
type Server struct {
	options  Options
	bin      string // the folder of initdb and postgres
	port     int
	home     string // holds data and the lock; removed by Stop unless it is Options.Dir
	lock     *dirlock.Lock
	keeper   *keeper
	log      *tail
	identity *syscall.SysProcAttr // whom Postgres runs as, in a process group of its own

	mu      sync.Mutex
	process *exec.Cmd  // nil while it does not run
	exited  chan error // receives what process.Wait said, once
}

// Start prepares a data folder and returns when the server answers. ctx bounds the start, not the server: that runs
// until Stop or the end of this process. After an error nothing runs and nothing is left.
func Start(ctx context.Context, o Options) (_ *Server, err error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, bin: bin, port: o.Port, log: &tail{to: o.Log}}
	defer func() {
		if err != nil {
			_ = s.Stop()
		}
	}()
	if err := s.settle(); err != nil {
		return nil, err
	}
	if err := s.initdb(ctx); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		if o.Port == 0 {
			if s.port, err = faultproxy.FreePort(); err != nil {
				return nil, err
			}
		}
		err := s.Restart(ctx)
		if err == nil {
			return s, nil
		}
		if clash := o.Port == 0 && s.log.contains("Address already in use"); !clash || try == 5 {
			return nil, err
		}
	}
}

// settle makes the folder, locks it, gives it to Postgres's user and starts the keeper.
func (s *Server) settle() error {
	var err error
	if s.identity, err = identity(); err != nil {
		return err
	}
	if s.home = s.options.Dir; s.home == "" {
		parent := os.TempDir()
		if s.options.memory {
			parent = dirlock.Memory()
		}
		// A Postgres that still runs in what is swept ends itself when it misses its pid file.
		dirlock.Sweep(filepath.Join(parent, folder+"*"))
		if s.home, err = os.MkdirTemp(parent, folder+"*"); err != nil {
			return err
		}
	} else if s.home, err = filepath.Abs(s.home); err != nil {
		return err
	}
	if err := os.MkdirAll(s.data(), 0o700); err != nil {
		return err
	}
	if s.lock, err = dirlock.Take(s.home); err != nil {
		return err
	}
	if owner := s.identity.Credential; owner != nil {
		for _, dir := range []string{s.home, s.data()} {
			if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
				return err
			}
		}
	}
	s.keeper, err = startKeeper(s.data(), s.temporary(), s.identity)
	return err
}

// temporary is the folder to remove in the end, or empty.
func (s *Server) temporary() string {
	if s.options.Dir != "" {
		return ""
	}
	return s.home
}

func (s *Server) data() string { return filepath.Join(s.home, "data") }

// initdb fills the data folder, as Postgres's user. It is skipped when the folder holds a database already.
func (s *Server) initdb(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(s.data(), "PG_VERSION")); err == nil {
		return nil
	}
	program, args := filepath.Join(s.bin, "initdb"), []string{"--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "-D", s.data()}
	if primary := s.options.StandbyOf; primary != nil {
		program, args = filepath.Join(s.bin, "pg_basebackup"), []string{"--no-sync", "--checkpoint=fast", "--write-recovery-conf",
			"-d", fmt.Sprintf("host=127.0.0.1 port=%d user=postgres", primary.port), "-D", s.data()}
	} else if s.options.copyOf != "" {
		program, args = "cp", []string{"-R", s.options.copyOf + "/.", s.data()}
	}
	c := exec.CommandContext(ctx, program, args...)
	c.Dir, c.SysProcAttr = s.data(), s.identity
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", program, err, out)
	}
	return nil
}

// Restart starts a server that was stopped or killed, on the same port and data, and returns when it answers.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runs() {
		return errors.New("postgres runs already")
	}
	s.log.clear()
	settings := map[string]string{"listen_addresses": "127.0.0.1", "port": strconv.Itoa(s.port), "unix_socket_directories": ""}
	for name, value := range s.options.Settings {
		settings[name] = value
	}
	args := []string{"-D", s.data()}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	c := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	c.Dir, c.SysProcAttr, c.WaitDelay = s.data(), s.identity, 10*time.Second
	if len(s.options.Env) > 0 {
		c.Env = append(os.Environ(), s.options.Env...)
	}
	c.Stdout, c.Stderr = s.log, s.log // not a file: so Wait waits until every process of the server has let go of it
	if err := c.Start(); err != nil {
		return err
	}
	s.process, s.exited = c, make(chan error, 1)
	go func() { s.exited <- c.Wait() }() // ends with the process, which halt and answer wait for
	if err := s.answer(ctx); err != nil {
		_ = s.halt(syscall.SIGQUIT)
		return fmt.Errorf("postgres did not start: %w\n%s", err, s.log)
	}
	return nil
}

// answer asks until the server answers, has exited, or ctx ends.
func (s *Server) answer(ctx context.Context) error {
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := ping(ctx, s.DSN("postgres"))
		if err == nil {
			return nil
		}
		select {
		case exit := <-s.exited:
			s.exited <- exit // halt wants it too
			return cmp.Or(exit, errors.New("it exited"))
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-again.C:
		}
	}
}

func ping(ctx context.Context, dsn string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	return errors.Join(conn.Ping(ctx), conn.Close(ctx))
}

// DSN is the connection string of one database of the server; "postgres" exists from the start.
func (s *Server) DSN(database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
}

// Promote makes a standby a server by itself and returns when it takes writes.
func (s *Server) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	var done bool
	err = conn.QueryRow(ctx, `SELECT pg_promote(true, 60)`).Scan(&done)
	if err == nil && !done {
		err = errors.New("the standby was not promoted within 60 s")
	}
	return errors.Join(err, conn.Close(ctx))
}

// Addr is the server's host and port, for a proxy before it.
func (s *Server) Addr() string { return fmt.Sprintf("127.0.0.1:%d", s.port) }

// Psql is the line a person types to look inside.
func (s *Server) Psql() string {
	return fmt.Sprintf("psql 'postgres://postgres@127.0.0.1:%d/postgres'", s.port)
}

// Stop ends the server in order (transactions are cut, everything is written) and removes a temporary folder. The
// server cannot be started again. A second Stop does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.halt(syscall.SIGINT)
	if s.keeper != nil {
		// A pid file that a kill left behind must not lead the keeper to whoever has that number now.
		_ = os.Remove(filepath.Join(s.data(), "postmaster.pid"))
		err = errors.Join(err, s.keeper.dismiss())
		s.keeper = nil
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Free())
		s.lock = nil
	}
	if dir := s.temporary(); dir != "" {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}
