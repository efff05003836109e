package main

import (
	"path/filepath"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// TestRevokedCredential: a credential that is revoked in the middle of 1,000
// requests costs no request an attempt, and all 1,000 are created once after it
// is put right.
func TestRevokedCredential(t *testing.T) {
	t.Parallel()
	const all = 1000
	r := newRig(t)
	in := r.read()
	file := filepath.Join(t.TempDir(), "token")
	write := func(token string) { t.Helper(); rotate(t, file, token+"\n") }
	write(flextest.AuthToken)
	var addresses []string
	for range 2 {
		cfg := r.unhurried()
		cfg.TwilioAuthToken = Secret{&secret{file: file}}
		r.start(cfg)
		addresses = append(addresses, cfg.AdminAddr)
		r.says(cfg.AdminAddr, "ok", 200)
	}
	r.send("a", 0, all/2)
	if err := r.flex.Wait(t.Context(), func(c flextest.Calls) bool { return c.Created >= 100 }); err != nil {
		t.Fatal(err)
	}
	const rotated = "a-rotated-token"
	r.flex.SetCredentials(flextest.Credential{User: flextest.AccountSID, Secret: rotated})
	r.send("b", 0, all/2)
	for _, address := range addresses {
		r.says(address, "unauthorized", 503)
	}
	before := len(r.flex.Ledger())
	if before >= all {
		t.Fatalf("%d were created before the credential was revoked", before)
	}
	expect.Eventually(t, func() error { return expect.Is("stored", r.count(`SELECT count(*) FROM outbox`), all) })
	if n := len(r.flex.Ledger()); n != before {
		t.Errorf("%d created with a credential that was revoked", n-before)
	}
	write(rotated)
	in.balanced(all)
	if n := r.count(`SELECT count(*) FROM outbox WHERE attempt - uncounted = 1`); n != all {
		t.Errorf("%d of %d paid one attempt: %s", n, all, r.states())
	}
	if n := r.count(`SELECT count(*) FROM outbox WHERE uncounted > 0`); n == 0 {
		t.Error("nobody met the revoked credential")
	}
	if n := len(r.flex.Ledger()); n != all {
		t.Errorf("%d entries in the ledger", n)
	}
	for _, address := range addresses {
		r.says(address, "ok", 200)
	}
}
