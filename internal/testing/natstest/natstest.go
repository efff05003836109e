// Package natstest runs a NATS server with JetStream inside this process: for tests, the demo, the soak and the
// benchmarks.
//
//	func TestX(t *testing.T) {
//		server := natstest.New(t, natstest.Options{})
//		conn := server.Connect(t)       // closed at the end
//		...
//		server.Restart()                // same port, same messages
//	}
//
// For faults of the network put a faultproxy before Addr. What a server inside the process cannot show is its own death
// by SIGKILL: Stop writes what it holds.
package natstest

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/dirlock"
	"flexworker/internal/testing/faultproxy"
)

// Options of a server. The zero value keeps its streams in a temporary folder, which Stop removes, and lets anyone do
// anything.
type Options struct {
	// StoreDir is where streams are kept from one start to the next. Empty: a temporary folder.
	StoreDir string
	// Host is the address on which the server listens. Empty: 127.0.0.1.
	Host string
	// Port of Host. 0: one that is free on 127.0.0.1, below the range of outgoing connections, so that it can be had back.
	Port int
	// SyncAlways makes every publish wait for the disk. Without it NATS acknowledges before it syncs, and a power cut may
	// lose the last seconds; the death of a process loses nothing either way.
	SyncAlways bool
	// MaxPayload is the largest message in bytes, headers included. 0: 1 MiB.
	MaxPayload int32
	// MaxStore is how many bytes all streams may take on disk. 0: 4 GiB, where NATS itself would take most of the disk.
	MaxStore int64
	// Limits are JetStream's own, for all streams and consumers. The zero value: none.
	Limits server.JSLimitOpts
	// Users who may connect, beside the server's own administrator. None: everyone is one.
	Users []User
	// Credentials makes NewCredentials the only way in. It goes with no Users.
	Credentials bool
	// WriteDeadline is how long a client may leave what it is sent unread until the server closes its connection as that of a
	// slow consumer. 0: ten seconds.
	WriteDeadline time.Duration
	// TLS is what the server shows, and asks of its clients. Nil: it does without. Connect, which stays within this process,
	// does without in any case.
	TLS *tls.Config

	memory bool // a temporary folder may be one in memory
	member *member
}

// User is a name, a password and what they may do. An empty list forbids that verb altogether.
type User struct {
	Name, Password     string
	Publish, Subscribe []string
	// Answers lets the user publish one message on the reply subject of each message that comes: allow_responses.
	Answers bool
}

// Server is one NATS server. Its methods may be called by anyone at any time; Restart and Stop wait for each other.
type Server struct {
	options   Options
	port      int
	temporary string // the folder to remove in the end, or empty
	admin     *url.Userinfo
	account   *account      // nil: without Options.Credentials
	lock      *dirlock.Lock // NATS itself lets two servers write one folder, and what one of them acknowledged is lost

	mu     sync.Mutex
	server *server.Server // nil after Stop
}

const loopback = "127.0.0.1"

// startLimit is for a start on a busy machine; usually it takes milliseconds. A server that was killed reads first what it
// had stored: 190,000 messages took more than 30 s beside two sets of tests.
const startLimit = 2 * time.Minute

// Unhurried is an option of jetstream.New: a question without a deadline of its own is given up after 30 s, in place of the
// library's five. On a busy machine NATS took more than five to store a megabyte. An answer that an outage has swallowed is
// still given up soon enough for whoever asks again.
func Unhurried() jetstream.JetStreamOpt { return jetstream.WithDefaultTimeout(30 * time.Second) }

// New starts a server for one test, with its streams in memory where there is room, and stops it when the test ends. The
// test fails where a result that was published is none by the published schema.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	o.memory = true
	s, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.checkResults(t)
		if err := s.Stop(); err != nil {
			t.Errorf("stop nats: %v", err)
		}
	})
	return s
}

// Start returns when the server has stored a message. After an error nothing runs and nothing is left.
func Start(o Options) (_ *Server, err error) {
	s := &Server{options: o, port: o.Port}
	defer func() {
		if err != nil {
			_ = s.Stop()
		}
	}()
	if len(o.Users) > 0 {
		s.admin = url.UserPassword("admin", rand.Text())
	}
	if o.Credentials {
		if s.account, err = newAccount(); err != nil {
			return nil, err
		}
	}
	if o.StoreDir == "" {
		parent := os.TempDir()
		if o.memory {
			parent = dirlock.Memory()
		}
		dirlock.Sweep(filepath.Join(parent, folder+"*"))
		if s.temporary, err = os.MkdirTemp(parent, folder+"*"); err != nil {
			return nil, err
		}
		s.options.StoreDir = s.temporary
	}
	if err := os.MkdirAll(s.options.StoreDir, 0o700); err != nil {
		return nil, err
	}
	if s.lock, err = dirlock.Take(s.options.StoreDir); err != nil {
		return nil, err
	}
	if s.port == 0 {
		if s.port, err = faultproxy.FreePort(); err != nil {
			return nil, err
		}
	}
	return s, s.run()
}

const folder = "flexworker-nats-" // how the names of temporary folders begin

// run starts the server and waits until a stream takes a message: a server that cannot write to its folder answers and
// says that JetStream is on.
func (s *Server) run() error {
	options, err := s.serverOptions()
	if err != nil {
		return err
	}
	ns, err := server.NewServer(options)
	if err != nil {
		return err
	}
	ns.Start()
	s.server = ns
	if !ns.ReadyForConnections(startLimit) {
		return fmt.Errorf("nats does not listen on %s: taken, or no JetStream in %s", s.Addr(), s.options.StoreDir)
	}
	if s.options.member != nil {
		return nil // alone it stores nothing
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	if err := s.probe(ctx); err != nil {
		return fmt.Errorf("nats stores nothing: %w", err)
	}
	return nil
}

// serverOptions are the options in the server's own form.
func (s *Server) serverOptions() (*server.Options, error) {
	options := &server.Options{
		ServerName: "flexworker", Host: cmp.Or(s.options.Host, loopback), Port: s.port,
		JetStream: true, StoreDir: s.options.StoreDir, SyncAlways: s.options.SyncAlways,
		JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: cmp.Or(s.options.MaxStore, 4<<30),
		JetStreamLimits: s.options.Limits,
		MaxPayload:      cmp.Or(s.options.MaxPayload, server.MAX_PAYLOAD_SIZE),
		Users:           s.users(),
		NoSigs:          true, // or the library ends this process at the first SIGINT
		NoLog:           true,
		// The shortest that lose nothing: the defaults are two minutes and ten seconds.
		LameDuckDuration: 2 * time.Second, LameDuckGracePeriod: time.Second,
		WriteDeadline: s.options.WriteDeadline,
		AuthTimeout:   startLimit.Seconds(), // a busy machine may take longer than the default, two seconds, to log in
	}
	if s.options.TLS != nil {
		options.TLS, options.TLSConfig, options.TLSTimeout = true, s.options.TLS, startLimit.Seconds()
	}
	s.options.member.join(options)
	return options, s.account.trust(options)
}

// probe stores one message in a stream of its own and removes it again.
func (s *Server) probe(ctx context.Context) (err error) {
	conn, err := nats.Connect("", nats.InProcessServer(s.server), s.login(), nats.Timeout(startLimit))
	if err != nil {
		return err
	}
	defer conn.Close()
	js, err := jetstream.New(conn, Unhurried())
	if err != nil {
		return err
	}
	if err := s.hold(); err != nil {
		return err
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CONSUMERTEST", Subjects: []string{"natstest"}}); err != nil {
		return err
	}
	_, err = js.Publish(ctx, "natstest", nil)
	return errors.Join(err, js.DeleteStream(ctx, "CONSUMERTEST"))
}

// hold keeps NATS from removing the folder of all streams with the last stream. It does so some time after it has answered,
// and a stream made meanwhile would find its folder gone (API error 10049). NATS takes an entry that begins with a dot for
// the rest of a stream and clears it away at the next start, so each start needs one of another name.
func (s *Server) hold() error {
	streams := filepath.Join(s.options.StoreDir, server.JetStreamStoreDir, server.DEFAULT_GLOBAL_ACCOUNT, "streams")
	return os.MkdirAll(filepath.Join(streams, ".held-"+rand.Text()), 0o700)
}

func (s *Server) users() []*server.User {
	if s.admin == nil {
		return nil
	}
	password, _ := s.admin.Password()
	users := []*server.User{{Username: s.admin.Username(), Password: password}}
	for _, u := range s.options.Users {
		rights := &server.Permissions{Publish: only(u.Publish), Subscribe: only(u.Subscribe)}
		if u.Answers {
			rights.Response = &server.ResponsePermission{MaxMsgs: 1, Expires: server.DEFAULT_ALLOW_RESPONSE_EXPIRATION}
		}
		users = append(users, &server.User{Username: u.Name, Password: u.Password, Permissions: rights})
	}
	return users
}

// only allows these subjects. To NATS an empty list of what is allowed means everything.
func only(subjects []string) *server.SubjectPermission {
	if len(subjects) == 0 {
		return &server.SubjectPermission{Deny: []string{">"}}
	}
	return &server.SubjectPermission{Allow: subjects}
}

func (s *Server) login() nats.Option {
	if s.account != nil {
		return s.account.login()
	}
	if s.admin == nil {
		return func(*nats.Options) error { return nil }
	}
	password, _ := s.admin.Password()
	return nats.UserInfo(s.admin.Username(), password)
}

// Addr is the server's host and port, for a proxy before it.
func (s *Server) Addr() string { return fmt.Sprintf("%s:%d", cmp.Or(s.options.Host, loopback), s.port) }

// URL is where the administrator connects, or anyone where there are no users.
func (s *Server) URL() string {
	return (&url.URL{Scheme: "nats", User: s.admin, Host: s.Addr()}).String()
}

// URLFor is where one of Options.Users connects.
func (s *Server) URLFor(name string) string {
	u := url.URL{Scheme: "nats", Host: s.Addr()}
	for _, user := range s.options.Users {
		if user.Name == name {
			u.User = url.UserPassword(user.Name, user.Password)
		}
	}
	return u.String()
}

// Connect opens a connection to URL for one test, which reconnects for ever, and closes it when the test ends.
func (s *Server) Connect(t testing.TB, options ...nats.Option) *nats.Conn {
	t.Helper()
	// A busy machine may take longer than the client's two seconds to accept.
	options = append([]nats.Option{nats.Timeout(time.Minute), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond), s.login()}, options...)
	if s.options.TLS != nil {
		options = append(options, nats.InProcessServer(s))
	}
	conn, err := nats.Connect(s.URL(), options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

// InProcessConn is a connection that does not leave this process.
func (s *Server) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil, errors.New("the nats server does not run")
	}
	return s.server.InProcessConn()
}

// Reload changes options of the server while it runs, as an operator does by `nats-server --signal reload`: Users and TLS. The
// server keeps every connection whose user may still connect.
func (s *Server) Reload(t testing.TB, change func(*Options)) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.options)
	options, err := s.serverOptions()
	if err == nil {
		err = s.server.ReloadOptions(options)
	}
	if err != nil {
		t.Fatalf("reload: %v", err)
	}
}

// SlowConsumers is how many connections the server has closed since its start because their clients did not read.
func (s *Server) SlowConsumers() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server.NumSlowConsumersClients()
}

// Shutdown ends the server and keeps port and folder for Restart.
func (s *Server) Shutdown() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halt()
}

// LameDuck ends the server as an operator does who wants its clients to move on: it takes no new ones, gives its
// leaderships away, and closes one connection after the other. It returns when that is done.
func (s *Server) LameDuck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		s.server.LameDuckShutdown()
		s.halt()
	}
}

// Restart ends the server if it runs and starts it on the same port and folder. What streams hold is there again.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock == nil {
		return errors.New("the nats server was stopped for good")
	}
	s.halt()
	return s.run()
}

// Stop ends the server for good and removes a temporary folder. A second Stop does nothing.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.halt()
	var err error
	if s.lock != nil {
		err = s.lock.Free()
		s.lock = nil
	}
	if s.temporary != "" {
		err = errors.Join(err, os.RemoveAll(s.temporary))
	}
	return err
}

// halt needs s.mu.
func (s *Server) halt() {
	if s.server != nil {
		s.server.Shutdown()
		s.server.WaitForShutdown()
		s.server = nil
	}
}
