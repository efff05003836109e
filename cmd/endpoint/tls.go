package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	caFile    = "ca.pem"
	handshake = 10 * time.Second // the longest that dialling inwards, or a handshake, may take
	linger    = time.Second      // how long a client may take to hear the end
)

// front takes TLS connections and carries their bytes to the plain listener of
// the same process. flextest itself hears plain connections only: its faults are
// faults of those, and they come out here as nearly the same. A listener that is
// down resets the connection before the handshake, and a reset stays a reset.
type front struct {
	listener net.Listener
	config   *tls.Config
	inside   string // address of the plain listener
	running  sync.WaitGroup
}

// startFront writes the new authority's certificate to cfg.TLSDir and serves TLS
// on cfg.TLSAddr until ctx ends. Whoever starts it stops and waits for it.
func startFront(ctx context.Context, cfg config, inside string, log *slog.Logger) (*front, error) {
	cert, ca, err := certificates(cfg.TLSNames)
	if err != nil {
		return nil, fmt.Errorf("TLS_NAMES: %w", err)
	}
	// Listening first: who finds the file finds the port open.
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.TLSAddr)
	if err != nil {
		return nil, fmt.Errorf("TLS_ADDR: %w", err)
	}
	if err := replace(filepath.Join(cfg.TLSDir, caFile), ca); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("TLS_DIR: %w", err)
	}
	f := &front{listener: listener, inside: inside, config: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"},
	}}
	f.running.Go(func() { f.accept(ctx, log) })
	return f, nil
}

// stop takes no more connections.
func (f *front) stop() { _ = f.listener.Close() }

// wait returns when the last connection is gone: once ctx has ended, after linger.
func (f *front) wait() { f.running.Wait() }

func (f *front) accept(ctx context.Context, log *slog.Logger) {
	for {
		conn, err := f.listener.Accept()
		switch {
		case err == nil:
			f.running.Go(func() { f.carry(ctx, conn.(*net.TCPConn)) })
		case errors.Is(err, net.ErrClosed):
			return
		default: // out of file descriptors, most likely
			log.Warn("connection not accepted", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// carry serves one connection.
func (f *front) carry(ctx context.Context, outer *net.TCPConn) {
	defer func() { _ = outer.Close() }()
	// A client that reads nothing must not hold up the end.
	defer context.AfterFunc(ctx, func() { _ = outer.SetDeadline(time.Now().Add(linger)) })()

	dialer := net.Dialer{Timeout: handshake}
	conn, err := dialer.DialContext(ctx, "tcp", f.inside)
	if err != nil {
		reset(outer)
		return
	}
	inner := conn.(*net.TCPConn)
	defer func() { _ = inner.Close() }()
	secure := tls.Server(outer, f.config)
	shaking, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	if secure.HandshakeContext(shaking) != nil {
		return
	}

	var inwards sync.WaitGroup
	inwards.Go(func() {
		if _, err := io.Copy(inner, secure); err != nil {
			reset(inner)
			return
		}
		_ = inner.CloseWrite()
	})
	if _, err := io.Copy(secure, inner); err != nil {
		reset(inner) // the client went, or
		reset(outer) // the endpoint reset the connection
	} else {
		// Not closed at once: with bytes of the client unread, that would be a reset and might cost it the answer.
		_ = secure.CloseWrite()
		_ = outer.CloseWrite()
		_ = outer.SetReadDeadline(time.Now().Add(linger))
	}
	inwards.Wait()
}

// reset closes a connection with a reset.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// certificates makes an authority that signs one certificate for names and
// nothing else, since its key is forgotten. It returns that certificate and the
// authority's as PEM.
func certificates(names []string) (cert tls.Certificate, ca []byte, err error) {
	now := time.Now()
	authority := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "flexworker endpoint, made up"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		NotBefore: authority.NotBefore, NotAfter: authority.NotAfter, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range names {
		switch ip := net.ParseIP(name); {
		case name == "":
			return cert, nil, errors.New("an empty name")
		case ip != nil:
			server.IPAddresses = append(server.IPAddresses, ip)
		default:
			server.DNSNames = append(server.DNSNames, name)
		}
	}
	if len(names) == 0 {
		return cert, nil, errors.New("no name")
	}
	server.Subject.CommonName = names[0]

	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, nil, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		return cert, nil, err
	}
	// As signed, with the key id that the server's certificate refers to.
	if authority, err = x509.ParseCertificate(caDER); err != nil {
		return cert, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return cert, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, server, authority, &key.PublicKey, caKey)
	if err != nil {
		return cert, nil, err
	}
	cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), nil
}

// replace writes a file that everybody may read and nobody sees half of.
func replace(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	// Not by the umask: the file is for processes of other users.
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// trusting is a client that trusts the authority in dir and expects name.
func trusting(dir, name string) (*http.Client, error) {
	ca, err := os.ReadFile(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("no certificate in %s", filepath.Join(dir, caFile))
	}
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: name},
		DisableKeepAlives: true,
	}}, nil
}
