package main

import (
	"errors"
	"fmt"
	"testing"

	"flexworker/internal/testing/expect"
	"flexworker/internal/testing/flextest"
)

// TestMiddlebox: whoever stands between us and Flex passes the call on and answers by itself: a
// refusal that is none. Each request has one interaction, found by a lookup.
func TestMiddlebox(t *testing.T) {
	t.Parallel()
	for _, answer := range []flextest.Fault{
		flextest.Status(403).HTML(), flextest.Status(429).HTML().RetryAfter("1"), flextest.Status(404).HTML(),
		flextest.Status(401).Foreign(), flextest.Status(403).Foreign(), flextest.Status(429).Foreign(), flextest.Status(400).Foreign(),
	} {
		t.Run(string(answer), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			in := r.read()
			r.flex.Inject(flextest.Rule{Fault: flextest.CreateThen(answer)})
			r.start(r.unhurried())
			r.send("m", 0, 3)
			in.balanced(3)
			if calls := r.flex.Calls(); calls.Received != 3 {
				t.Errorf("%d calls for 3 requests", calls.Received)
			}
			for id, results := range in.final() {
				if by := results[0].Body.ResolvedBy; by != "lookup" {
					t.Errorf("%s was resolved by %s", id, by)
				}
			}
		})
	}
}

// TestWrongAddress: FLEX_URL leads to something that is not Twilio, with an answer to everything.
// Nothing is rejected for it, and when the address is put right each request is made once. Only
// what was answered with a 2xx, behind which Flex could be, waits for a person.
func TestWrongAddress(t *testing.T) {
	t.Parallel()
	for _, answer := range []flextest.Fault{
		flextest.Status(404).HTML(), flextest.Status(404).Foreign(), flextest.Status(403).HTML(), flextest.Status(403).Foreign(),
		flextest.Status(429).HTML().RetryAfter("3600"), flextest.Status(429).Foreign(), flextest.Status(401).Foreign(),
		flextest.HTML, flextest.NotJSON,
	} {
		t.Run(string(answer), func(t *testing.T) {
			t.Parallel()
			const sent = 30
			r := newRig(t)
			in := r.read()
			cfg := r.config()
			r.start(cfg)
			r.says(cfg.AdminAddr, "ok", 200) // else it stops at its first read, and sends nothing
			r.flex.Inject(flextest.Rule{Fault: answer})
			r.flex.Set(flextest.Settings{FetchTrouble: answer})
			r.send("w", 0, sent)
			expect.Eventually(t, func() error {
				if r.count(`SELECT count(*) FROM outbox_attempts WHERE outcome = 'uncertain'`) < 1 {
					return errors.New("nothing is uncertain yet")
				}
				return nil
			})
			r.flex.Clear() // the address is put right
			r.flex.Set(flextest.Settings{})
			accepted := answer == flextest.HTML || answer == flextest.NotJSON
			expect.Eventually(t, func() error {
				if created, asked := r.count(`SELECT count(*) FROM outbox WHERE state = 'created'`), len(in.uncertain()); created+asked != sent {
					return fmt.Errorf("%d are for a person, of %s", asked, r.states())
				}
				return nil
			})
			person := len(in.uncertain())
			if (person > 0) != accepted || person > 16+5 { // those in flight at once, and those after which a replica stops
				t.Errorf("%d wait for a person: %s", person, r.states())
			}
			if twice := r.flex.Duplicates(); len(twice) > 0 {
				t.Errorf("created more than once: %v", twice)
			}
			if n := len(r.flex.Ledger()); n != sent-person {
				t.Errorf("%d interactions, want %d", n, sent-person)
			}
			for id, results := range in.final() {
				if results[0].Body.Outcome != "created" {
					t.Errorf("%s is %s", id, results[0].Body.Outcome)
				}
			}
		})
	}
}

// uncertain are the requests of which a result has said that a person has to look.
func (in *reader) uncertain() map[string]bool {
	ids := map[string]bool{}
	for _, one := range in.list() {
		if one.Body.Outcome == "uncertain" {
			ids[one.Body.RequestID] = true
		}
	}
	return ids
}
