package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
)

// TestHealthcheckAddresses: every spelling of an address that the worker listens on reaches it, past any proxy.
func TestHealthcheckAddresses(t *testing.T) {
	var proxied atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		proxied.Add(1)
		w.WriteHeader(http.StatusBadGateway)
	}))
	t.Cleanup(proxy.Close)
	for _, name := range []string{"HTTP_PROXY", "http_proxy"} {
		t.Setenv(name, proxy.URL)
	}
	for _, host := range []string{"", "0.0.0.0", "127.0.0.1", "127.0.0.2", "localhost", "::", "::1", "::1%lo", "::ffff:127.0.0.1"} {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		_, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(listener) }() // until it is closed
		address := net.JoinHostPort(host, port)
		if err := healthcheck(t.Context(), address, "/healthz"); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if err := healthcheck(t.Context(), address, "/readyz"); err == nil {
			t.Errorf("%s: 503 counts as ready", address)
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		<-served
	}
	if n := proxied.Load(); n > 0 {
		t.Errorf("%d went to the proxy", n)
	}
}

// TestAdminConnectionsEnd: a connection to the admin address that asks nothing more is closed by the server.
func TestAdminConnectionsEnd(t *testing.T) {
	t.Parallel()
	server := adminServer(http.NotFoundHandler(), nil)
	for name, limit := range map[string]int64{"ReadHeaderTimeout": int64(server.ReadHeaderTimeout), "ReadTimeout": int64(server.ReadTimeout),
		"WriteTimeout": int64(server.WriteTimeout), "IdleTimeout": int64(server.IdleTimeout), "MaxHeaderBytes": int64(server.MaxHeaderBytes)} {
		if limit <= 0 {
			t.Errorf("%s is without limit", name)
		}
	}
}
