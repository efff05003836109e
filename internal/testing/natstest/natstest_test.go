package natstest_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"flexworker/internal/testing/certs"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/natstest"
)

const soon = expect.Patience // for what must come: never waited out when all is well

// stream makes a stream on one subject, "word".
func stream(t *testing.T, conn *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(conn, natstest.Unhurried())
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WORDS", Subjects: []string{"word"}})
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func messages(t *testing.T, js jetstream.JetStream) uint64 {
	t.Helper()
	s, err := js.Stream(t.Context(), "WORDS")
	if err != nil {
		t.Fatal(err)
	}
	return s.CachedInfo().State.Msgs
}

// TestRestartKeepsMessages restarts under an open connection, which must find its way back and its message.
func TestRestartKeepsMessages(t *testing.T) {
	t.Parallel()
	for _, sync := range []bool{false, true} {
		t.Run(fmt.Sprintf("sync=%t", sync), func(t *testing.T) {
			t.Parallel()
			s := natstest.New(t, natstest.Options{SyncAlways: sync})
			back := make(chan struct{}, 1)
			js := stream(t, s.Connect(t, nats.ReconnectHandler(func(*nats.Conn) { back <- struct{}{} })))
			if _, err := js.Publish(t.Context(), "word", []byte("kept")); err != nil {
				t.Fatal(err)
			}
			if err := s.Restart(); err != nil {
				t.Fatal(err)
			}
			select {
			case <-back:
			case <-time.After(soon):
				t.Fatal("the connection did not come back")
			}
			if n := messages(t, js); n != 1 {
				t.Errorf("%d messages, want 1", n)
			}
		})
	}
}

// TestStoreDirIsKept starts two servers on one folder, one after the other, and tries a third at the same time.
func TestStoreDirIsKept(t *testing.T) {
	t.Parallel()
	o := natstest.Options{StoreDir: t.TempDir()}
	s := natstest.New(t, o)
	if _, err := stream(t, s.Connect(t)).Publish(t.Context(), "word", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	if other, err := natstest.Start(o); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second server on the same folder: %v", err)
		if err == nil {
			_ = other.Stop()
		}
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(); err == nil {
		t.Error("a stopped server started again")
	}
	js, err := jetstream.New(natstest.New(t, o).Connect(t), natstest.Unhurried())
	if err != nil {
		t.Fatal(err)
	}
	if n := messages(t, js); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
}

// TestUsersAreHeldToTheirSubjects: what is not allowed is refused, and an empty list allows nothing.
func TestUsersAreHeldToTheirSubjects(t *testing.T) {
	t.Parallel()
	s := natstest.New(t, natstest.Options{Users: []natstest.User{
		{Name: "writer", Password: "w", Publish: []string{"word"}, Subscribe: []string{"_INBOX.>"}},
		{Name: "reader", Password: "r", Subscribe: []string{"word"}},
	}})
	if _, err := nats.Connect("nats://" + s.Addr()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("without a name: got %v, want a refusal", err)
	}
	listener := s.Connect(t)
	heard, err := listener.SubscribeSync("word")
	if err = errors.Join(err, listener.FlushTimeout(soon)); err != nil { // so that the server knows of it
		t.Fatal(err)
	}
	refused := make(chan error, 8)
	as := func(name string) *nats.Conn {
		conn, err := nats.Connect(s.URLFor(name), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		return conn
	}
	for _, c := range []struct {
		name, subject string
		allowed       bool
	}{{"writer", "word", true}, {"writer", "other", false}, {"reader", "word", false}} {
		conn := as(c.name)
		if err := errors.Join(conn.Publish(c.subject, []byte(c.name)), conn.FlushTimeout(soon)); err != nil {
			t.Fatal(err)
		}
		if c.allowed {
			if m, err := heard.NextMsg(soon); err != nil || m.Subject != c.subject {
				t.Errorf("%s on %s did not arrive: %v", c.name, c.subject, err)
			}
			continue
		}
		select {
		case err := <-refused:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("%s on %s: %v", c.name, c.subject, err)
			}
		case <-time.After(soon):
			t.Errorf("%s on %s was not refused", c.name, c.subject)
		}
	}
}

// TestReload: a user's permissions and the server's certificate change under an open connection, which stays.
func TestReload(t *testing.T) {
	t.Parallel()
	one, two := certs.New(t, "one"), certs.New(t, "two")
	shows := func(by *certs.Authority) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{by.Issue(t).TLS(t)}}
	}
	s := natstest.New(t, natstest.Options{TLS: shows(one), Users: []natstest.User{{Name: "writer", Password: "b", Publish: []string{"word"}}}})
	connect := func(by *certs.Authority) (*nats.Conn, error) {
		return nats.Connect(s.URLFor("writer"), nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: certs.Pool(by)}),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // LastError has it
	}
	conn, err := connect(one)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	publish := func() error {
		return errors.Join(conn.Publish("word", nil), conn.FlushTimeout(soon), conn.LastError())
	}
	if err := publish(); err != nil {
		t.Errorf("before: %v", err)
	}
	s.Reload(t, func(o *natstest.Options) { o.TLS, o.Users[0].Publish = shows(two), nil })
	if err := publish(); !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("what was taken away is still permitted: %v", err)
	}
	if n := conn.Stats().Reconnects; n != 0 {
		t.Errorf("the connection was closed %d times", n)
	}
	if _, err := connect(one); err == nil {
		t.Error("the server still shows its old certificate")
	}
	other, err := connect(two)
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	stream(t, s.Connect(t)) // the administrator, by no network
}

func TestMaxPayload(t *testing.T) {
	t.Parallel()
	s := natstest.New(t, natstest.Options{MaxPayload: 1000})
	if err := s.Connect(t).Publish("word", make([]byte, 1001)); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("got %v, want ErrMaxPayload", err)
	}
}

// TestNothingStays: a stopped server leaves no folder, and the next start clears away those of processes that were
// killed, but neither those in use nor those too young to tell.
func TestNothingStays(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	old := time.Now().Add(-time.Hour)
	start := func() *natstest.Server { // not New, whose folder may be in memory
		s, err := natstest.Start(natstest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Stop() })
		return s
	}
	inUse := start()
	used, err := filepath.Glob(filepath.Join(temp, "*"))
	if err != nil || len(used) != 1 {
		t.Fatalf("folders of one server: %v, %v", used, err)
	}
	for _, dir := range []string{"flexworker-nats-old", "flexworker-nats-young"} {
		if err := os.Mkdir(filepath.Join(temp, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{used[0], filepath.Join(temp, "flexworker-nats-old")} {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	s := start()
	if err := errors.Join(s.Stop(), inUse.Restart()); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(temp, "*"))
	want := []string{used[0], filepath.Join(temp, "flexworker-nats-young")}
	slices.Sort(want)
	if err != nil || !slices.Equal(left, want) {
		t.Errorf("left: %v, want %v", left, want)
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		s, err := natstest.Start(natstest.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Stop(); err != nil {
			b.Fatal(err)
		}
	}
}
