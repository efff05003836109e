package consumer

import (
	"bytes"
	"reflect"
	"testing"
	"time"
	"unicode/utf8"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/request"
	"flexworker/internal/rawjson"
)

// FuzzDecode: a message is either malformed for a reason or has a usable id;
// what has no faults is the same event when it is decoded again from what is
// stored, and takes the lookup key that it was promised.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{"", "null", "{}", bodyOK, withID(`"a"`), withID(`"\ud83d\udc69"`),
		`{"specversion":"1.0","id":"a","data":` + bodyOK + `}`, `{"specversion":"1.0","id":null,"data_base64":"e30="}`,
		requestWith(`"attributes":{"interaction_request":null}`), requestWith(`"attributes":"{\"a\":1}"`), requestWith(`"attributes":null`),
		`{"request_id":"a","priority":9,"not_before":"2026-11-22T09:00:00Z","expires_at":"2026-11-22T10:00:00+01:00",` + channelOK + `,` + routingOK + `}`,
	} {
		for _, id := range []string{"", "crm-42", "\u2028", "\xff"} {
			f.Add([]byte(body), "Nats-Msg-Id", id, "interaction_request")
		}
		f.Add([]byte(body), "ce-id", "crm-42", "")
		f.Add([]byte(body), "content-type", "application/cloudevents+json", "k")
	}
	f.Fuzz(func(t *testing.T, body []byte, name, value, attribute string) {
		if !utf8.ValidString(attribute) {
			return // the configuration lets letters, digits and _ pass only
		}
		m := message(headers{name: {value}}, string(body))
		e, bad := decode(m, attribute)
		again, badAgain := decode(m, attribute)
		if bad != badAgain || !reflect.DeepEqual(e, again) {
			t.Fatalf("twice decoded: %q %+v\nand %q %+v", bad, e, badAgain, again)
		}
		if !bytes.Equal(e.Raw, body) {
			t.Fatal("the message's bytes were changed")
		}
		agree(t, m, attribute)
		if bad != "" {
			if !utf8.ValidString(bad) {
				t.Fatalf("the reason is not text: %q", bad)
			}
			return
		}
		if len(e.RequestID) < 1 || len(e.RequestID) > 256 || !utf8.ValidString(e.RequestID) {
			t.Fatalf("request id %q", e.RequestID)
		}
		if len(e.Faults) > 0 {
			for _, fault := range e.Faults {
				if fault.Problem == "" {
					t.Fatalf("a fault without a word: %+v", e.Faults)
				}
			}
			return
		}
		sound(t, e, attribute)
	})
}

// sound checks an event that will be sent.
func sound(t *testing.T, e request.Event, attribute string) {
	t.Helper()
	stored, bad := decode(message(msgID(e.RequestID), string(e.Request)), attribute)
	if bad != "" || len(stored.Faults) > 0 {
		t.Fatalf("what is stored decodes to %q %v", bad, stored.Faults)
	}
	if stored.RequestID != e.RequestID || stored.Priority != e.Priority || !stored.NotBefore.Equal(e.NotBefore) ||
		!stored.ExpiresAt.Equal(e.ExpiresAt) || stored.LookupKey != e.LookupKey || !bytes.Equal(stored.Request, e.Request) {
		t.Fatalf("decoded %+v\nand then %+v", e, stored)
	}
	if e.Priority < 0 || e.Priority > 9 {
		t.Fatalf("priority %d", e.Priority)
	}
	for _, at := range []time.Time{e.NotBefore, e.ExpiresAt} {
		if !at.IsZero() && (at.Year() < 1970 || at.Year() > 9999) {
			t.Fatalf("%v is no time for Postgres", at)
		}
	}
	if rawjson.Check(e.Request) != nil {
		t.Fatalf("not fit to be stored: %s", e.Request)
	}
	if e.LookupKey == "" {
		return
	}
	routing, _ := rawjson.Member(e.Request, "routing")
	if _, err := flex.AddLookupKey(routing, attribute, e.LookupKey); err != nil {
		t.Fatalf("the lookup key cannot be added to %s: %v", routing, err)
	}
}
