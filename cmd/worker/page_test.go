package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"flexworker/internal/testing/expect"
)

// TestPage: the worker serves the page to who signs in; what is done there is done; and health needs no token.
func TestPage(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	cfg.AdminToken = secretOf("a-token-to-act")
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", http.StatusOK)
	r.send("page", 0, 3)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	t.Cleanup(client.CloseIdleConnections)
	ask := func(method, address string, form url.Values) (string, error) {
		request, err := http.NewRequestWithContext(t.Context(), method, "http://"+cfg.AdminAddr+"/"+address, strings.NewReader(form.Encode()))
		if err != nil {
			return "", err
		}
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	says := func(address string, wants ...string) {
		t.Helper()
		r.eventually(func() error {
			page, err := ask(http.MethodGet, address, nil)
			for _, want := range wants {
				if err == nil && !strings.Contains(page, want) {
					err = fmt.Errorf("/%s does not say %q:\n%s", address, want, page)
				}
			}
			return err
		})
	}
	send := func(address string, form url.Values) {
		t.Helper()
		if page, err := ask(http.MethodPost, address, form); err != nil {
			t.Fatal(page, err)
		}
	}
	says("", "Sign in")
	send("login", url.Values{"token": {"a-token-to-act"}, "name": {"ada"}})
	says("", "Nothing waits to be sent", "1 alive, 1 of them can work", "The last 60 minutes")
	says("request?id=page-1", "It is created as KD", "The result stream acknowledged its result")
	says("fleet", "FLEX_RATE", version)
	send("hold", url.Values{"why": {"a test"}})
	r.says(cfg.AdminAddr, "held", http.StatusOK)
	says("", "Nothing is sent: the fleet is held", "by ada")
	send("release", url.Values{"why": {"a test"}})
	r.says(cfg.AdminAddr, "ok", http.StatusOK)
}

// TestPageIsOff: without ADMIN_TOKEN the page says how to set it, and health and metrics are served all the same.
func TestPageIsOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", http.StatusOK)
	for address, want := range map[string]int{"": http.StatusForbidden, "requests": http.StatusForbidden, "login": http.StatusForbidden, "healthz": http.StatusOK, "metrics": http.StatusOK} {
		response, err := http.Get("http://" + cfg.AdminAddr + "/" + address)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err := expect.Is("/"+address, response.StatusCode, want); err != nil {
			t.Error(err)
		}
		if want == http.StatusForbidden && !strings.Contains(string(body), "Set ADMIN_TOKEN") {
			t.Errorf("/%s does not say how to set it: %s %v", address, body, err)
		}
	}
}
