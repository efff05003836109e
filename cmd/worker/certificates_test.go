package main

import (
	"crypto/tls"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/testing/certs"
	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/faultproxy"
	"flexworker/internal/testing/natstest"
	"flexworker/internal/testing/pgtest"
)

// certificateFiles are what a worker reads of a server that it reaches by TLS.
type certificateFiles struct{ authorities, cert, key string }

func newCertificateFiles(t *testing.T) certificateFiles {
	t.Helper()
	dir := t.TempDir()
	return certificateFiles{filepath.Join(dir, "authorities.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
}

// trust writes which authorities the worker is to believe.
func (f certificateFiles) trust(t *testing.T, authorities ...*certs.Authority) {
	t.Helper()
	var all []byte
	for _, a := range authorities {
		all = append(all, a.PEM...)
	}
	rotate(t, f.authorities, string(all))
}

// show writes the certificate that the worker is to show. For a moment its key is that of the one before.
func (f certificateFiles) show(t *testing.T, p certs.Pair) {
	t.Helper()
	rotate(t, f.cert, string(p.Cert))
	rotate(t, f.key, string(p.Key))
}

// says waits until the log has so many lines with these words, and returns how many it has.
func (l *logs) says(t *testing.T, words string, least int) (n int) {
	t.Helper()
	expect.Eventually(t, func() error {
		if n = strings.Count(l.String(), words); n < least {
			return fmt.Errorf("the log says %q %d times, want %d", words, n, least)
		}
		return nil
	})
	return n
}

// TestNATSCertificatesRotated: under load the certificate of NATS is replaced by another of the same authority, then the authority
// itself, before and after the file of the worker has the new one; and so the authority of the clients, and the worker's own
// certificate. After each step all connections are cut. The worker reads its files at each connection. While it does not trust NATS,
// or NATS does not trust it, it is not ready, and its log says why. Nothing is lost or doubled.
func TestNATSCertificatesRotated(t *testing.T) {
	t.Parallel()
	servers, clients := certs.New(t, "servers"), certs.New(t, "clients")
	shows := func(p certs.Pair, clients *certs.Authority) *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{p.TLS(t)}, ClientCAs: certs.Pool(clients), ClientAuth: tls.RequireAndVerifyClientCert}
	}
	own := servers.Issue(t)
	r := rigWith(t, migrated.NewDSN(t), natstest.Options{TLS: shows(own, clients)})
	r.redeliversSoon()
	proxy := faultproxy.New(t, r.nats.Addr())
	r.natsVia = "nats://" + proxy.Addr()
	in := r.read()
	files := newCertificateFiles(t)
	files.trust(t, servers)
	files.show(t, clients.Issue(t))
	cfg := r.unhurried()
	cfg.NATSCAFile, cfg.NATSCertFile, cfg.NATSKeyFile = files.authorities, files.cert, files.key
	out := r.startLogged(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	sending := r.load()
	in.goesOn()

	back := 0
	cut := func() {
		t.Helper()
		r.nats.Reload(t, func(o *natstest.Options) { o.TLS = shows(own, clients) })
		proxy.Cut()
	}
	isBack := func() {
		t.Helper()
		back = out.says(t, `msg="NATS is back"`, back+1)
		r.says(cfg.AdminAddr, "ok", 200)
		in.goesOn()
	}
	away := func(why string) {
		t.Helper()
		r.says(cfg.AdminAddr, "nats", 503)
		out.says(t, why, 1)
	}

	own = servers.Issue(t)
	cut()
	isBack()

	next := certs.New(t, "the next servers")
	files.trust(t, servers, next)
	own = next.Issue(t)
	cut()
	isBack()

	last := certs.New(t, "the last servers")
	own = last.Issue(t)
	cut()
	away("certificate signed by unknown authority")
	files.trust(t, last)
	isBack()

	clients = certs.New(t, "the next clients")
	files.show(t, clients.Issue(t))
	cut()
	isBack()

	clients = certs.New(t, "the last clients")
	cut()
	away("remote error: tls")
	files.show(t, clients.Issue(t))
	isBack()

	in.balanced(sending.stop())
	r.uncounted()
}

// TestDatabaseCertificatesRotated: the same with Postgres, and the files that DATABASE_URL names.
func TestDatabaseCertificatesRotated(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"verify-ca", "verify-full"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			server := pgtest.NewServer(t)
			r := rigOn(t, server.DSN("postgres"))
			in := r.read()
			servers, clients := certs.New(t, "servers"), certs.New(t, "clients")
			own, theirs := servers.Issue(t), clients.Issue(t)
			plain := fmt.Sprintf("postgres://worker@%s/postgres", server.Addr())
			// reload makes the server use its files, and waits until it does so for who comes then.
			reload := func() {
				t.Helper()
				server.Put(t, "server.crt", own.Cert)
				server.Put(t, "server.key", own.Key)
				server.Put(t, "clients.crt", clients.PEM)
				r.must(`SELECT pg_reload_conf()`)
				config, err := pgx.ParseConfig(plain + "?sslmode=require")
				if err != nil {
					t.Fatal(err)
				}
				config.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: "127.0.0.1", RootCAs: certs.Pool(servers), Certificates: []tls.Certificate{theirs.TLS(t)}}
				expect.Eventually(t, func() error {
					conn, err := pgx.ConnectConfig(t.Context(), config)
					if err != nil {
						return err
					}
					shown := conn.PgConn().Conn().(*tls.Conn).ConnectionState().PeerCertificates[0]
					if err := conn.Close(t.Context()); err != nil {
						return err
					}
					return expect.Is("the new certificate", shown.Equal(own.TLS(t).Leaf), true)
				})
			}
			r.must(`CREATE ROLE worker LOGIN SUPERUSER`)
			r.must(fmt.Sprintf(`COPY (VALUES ('hostssl all worker 127.0.0.1/32 trust clientcert=verify-ca'), ('host all worker 127.0.0.1/32 reject'), ('host all all 127.0.0.1/32 trust')) TO '%s'`,
				pgtest.One[string](t, r.pool, `SHOW hba_file`)))
			r.must(`ALTER SYSTEM SET ssl_ca_file = 'clients.crt'`)
			r.must(`ALTER SYSTEM SET ssl = on`)
			reload()
			files := newCertificateFiles(t)
			files.trust(t, servers)
			files.show(t, theirs)
			cfg := r.unhurried()
			cfg.DatabaseURL = secretOf(fmt.Sprintf("%s?sslmode=%s&sslrootcert=%s&sslcert=%s&sslkey=%s", plain, mode, files.authorities, files.cert, files.key))
			out := r.startLogged(cfg)
			r.says(cfg.AdminAddr, "ok", 200)
			sending := r.load()
			in.goesOn()

			cut := func() {
				t.Helper()
				reload()
				r.must(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'worker'`)
			}
			away := func(why string) {
				t.Helper()
				r.says(cfg.AdminAddr, "database", 503)
				out.says(t, why, 1)
			}
			isBack := func() {
				t.Helper()
				r.says(cfg.AdminAddr, "ok", 200)
				in.goesOn()
			}

			own = servers.Issue(t)
			cut()
			isBack()

			next := certs.New(t, "the next servers")
			files.trust(t, servers, next)
			servers, own = next, next.Issue(t)
			cut()
			isBack()

			servers = certs.New(t, "the last servers")
			own = servers.Issue(t)
			cut()
			away("certificate signed by unknown authority")
			files.trust(t, servers)
			isBack()

			clients = certs.New(t, "the next clients")
			theirs = clients.Issue(t)
			files.show(t, theirs)
			cut()
			isBack()

			clients = certs.New(t, "the last clients")
			theirs = clients.Issue(t)
			cut()
			away("connection requires a valid client certificate")
			files.show(t, theirs)
			isBack()

			in.balanced(sending.stop())
			r.uncounted()
		})
	}
}
