package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"flexworker/internal/testing/faultproxy"
)

// TestPageWhilePostgresIsAway: the page of a worker whose Postgres does not answer says so, since when, and how many messages wait. Of
// a gate that somebody has locked it does not say that Postgres does not answer.
func TestPageWhilePostgresIsAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	address, err := url.Parse(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	proxy := faultproxy.New(t, address.Host)
	address.Host = proxy.Addr()
	cfg := r.config()
	cfg.DatabaseURL, cfg.AdminToken = secretOf(address.String()), secretOf("a-token-to-act")
	r.start(cfg)
	t.Cleanup(proxy.Heal) // or the worker waits for Postgres as it stops
	r.says(cfg.AdminAddr, "ok", http.StatusOK)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	t.Cleanup(client.CloseIdleConnections)
	read := func(path string, form url.Values) (string, error) {
		ask := func() (*http.Response, error) { return client.Get("http://" + cfg.AdminAddr + path) }
		if form != nil {
			ask = func() (*http.Response, error) { return client.PostForm("http://"+cfg.AdminAddr+path, form) }
		}
		response, err := ask()
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	says := func(wants ...string) {
		t.Helper()
		r.eventually(func() error {
			page, err := read("/", nil)
			for _, want := range wants {
				if err == nil && !strings.Contains(page, want) {
					err = fmt.Errorf("it does not say %q:\n%s", want, page)
				}
			}
			return err
		})
	}
	if _, err := read("/login", url.Values{"token": {"a-token-to-act"}, "name": {"ada"}}); err != nil {
		t.Fatal(err)
	}
	says("Nothing waits to be sent", "No message waits in the request stream")
	for name, stop := range map[string]func(){"frozen": proxy.Blackhole, "stopped": proxy.Refuse} {
		stop()
		says("Postgres does not answer, since <time", "See whether Postgres runs", "gate: cannot be read", `<a href="requests"`)
		proxy.Heal()
		r.says(cfg.AdminAddr, "ok", http.StatusOK)
		says("gate: open")
		t.Log(name)
	}
	_, done := r.psql(`LOCK TABLE outbox_gate`)
	says("holds a lock", "gate: cannot be read")
	if page, err := read("/", nil); err != nil || strings.Contains(page, "Postgres does not answer") {
		t.Errorf("while somebody has locked the gate: %v\n%s", err, page)
	}
	done()
	says("gate: open")
}
