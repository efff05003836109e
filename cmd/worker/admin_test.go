package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// api asks the API of a replica, with a token and these headers: name, value. It is the answer's status, ETag and body.
func (r *rig) api(address, token, method, path, body string, headers ...string) (status int, tag string, got map[string]any) {
	r.t.Helper()
	request, err := http.NewRequestWithContext(r.t.Context(), method, "http://"+address+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || json.Unmarshal(text, &got) != nil {
		r.t.Fatal(string(text), err)
	}
	return response.StatusCode, response.Header.Get("ETag"), got
}

// TestAPIOff: without ADMIN_TOKEN there is no API, and health and metrics stay.
func TestAPIOff(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	status, _, got := r.api(cfg.AdminAddr, "", http.MethodGet, "/gate", "")
	if status != http.StatusForbidden || got["detail"] != "page and API are off: set ADMIN_TOKEN, or ADMIN_TOKEN_FILE, and start the worker anew" {
		t.Error(status, got)
	}
}

// TestAPI: a replica holds the fleet, shows what it does, and decides with what its Flex says.
func TestAPI(t *testing.T) {
	t.Parallel()
	const acts, looks = "a-token-that-acts-000000", "a-token-that-looks-00000"
	r := newRig(t)
	cfg := r.config()
	cfg.AdminToken, cfg.AdminReadToken = secretOf(acts), secretOf(looks)
	cfg.LookupAttribute = "" // what is uncertain waits for a person
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	if status, _, got := r.api(cfg.AdminAddr, looks, http.MethodPost, "/gate/hold", `{"why":"a test"}`); status != http.StatusForbidden {
		t.Error(status, got)
	}
	if status, _, got := r.api(cfg.AdminAddr, acts, http.MethodPost, "/gate/hold", `{"why":"a test"}`); status != http.StatusOK {
		t.Fatal(status, got)
	}
	r.says(cfg.AdminAddr, "held", 200)
	r.flex.Script("u-0", flextest.CreateThenReset)
	r.send("u", 0, 1)
	r.eventually(func() error {
		_, _, got := r.api(cfg.AdminAddr, looks, http.MethodGet, "/requests/u-0", "")
		return expect.Is("state", fmt.Sprint(got["state"]), "pending")
	})
	if status, _, got := r.api(cfg.AdminAddr, acts, http.MethodPost, "/gate/release", `{"why":"a test"}`); status != http.StatusOK {
		t.Fatal(status, got)
	}
	var tag string
	r.eventually(func() error {
		_, etag, got := r.api(cfg.AdminAddr, looks, http.MethodGet, "/requests/u-0", "")
		tag = etag
		return expect.Is("waits for a person", got["state"] == "uncertain" && got["for_person_since"] != nil || got["state"] == "uncertain" && got["due_at"] == nil, true)
	})
	r.eventually(func() error {
		_, _, got := r.api(cfg.AdminAddr, looks, http.MethodGet, "/backlog", "")
		return expect.Is("backlog", len(got) > 0 && got["backlog"] != nil, true)
	})
	sid := r.flex.Ledger()[0].InteractionSID
	status, _, got := r.api(cfg.AdminAddr, acts, http.MethodPost, "/requests/u-0/resolve", `{"why":"I see it in Flex","created":"`+sid+`"}`, "If-Match", tag, "Idempotency-Key", "1")
	if status != http.StatusOK || !strings.Contains(fmt.Sprint(got["said"]), "Flex shows "+sid) {
		t.Fatal(status, got)
	}
	if again, _, repeat := r.api(cfg.AdminAddr, acts, http.MethodPost, "/requests/u-0/resolve", `{"why":"I see it in Flex","created":"`+sid+`"}`, "If-Match", tag, "Idempotency-Key", "1"); again != status || fmt.Sprint(repeat) != fmt.Sprint(got) {
		t.Error(again, repeat)
	}
	if _, _, got := r.api(cfg.AdminAddr, looks, http.MethodGet, "/requests/u-0", ""); got["state"] != "created" || got["interaction_sid"] != sid {
		t.Error(got)
	}
}

// TestAPITokenRotated: a token that was rotated in its file counts without a restart, and the one before does not.
func TestAPITokenRotated(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	cfg := r.config()
	file := t.TempDir() + "/token"
	rotate := func(token string) {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rotate("the-first-token-of-them")
	cfg.AdminToken = Secret{&secret{file: file, token: true}}
	r.start(cfg)
	r.says(cfg.AdminAddr, "ok", 200)
	if status, _, got := r.api(cfg.AdminAddr, "the-first-token-of-them", http.MethodGet, "/gate", ""); status != http.StatusOK {
		t.Fatal(status, got)
	}
	rotate("the-second-token-of-all")
	r.eventually(func() error {
		before, _, _ := r.api(cfg.AdminAddr, "the-first-token-of-them", http.MethodGet, "/gate", "")
		return expect.Is("the token before", before, http.StatusUnauthorized)
	})
	if status, _, got := r.api(cfg.AdminAddr, "the-second-token-of-all", http.MethodGet, "/gate", ""); status != http.StatusOK {
		t.Error(status, got)
	}
}
