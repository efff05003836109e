package flex_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"flexworker/internal/flex"
	"flexworker/internal/testing/flextest"
)

// TestCloseChannel: a channel is closed once; what is told of it is never more than is known.
func TestCloseChannel(t *testing.T) {
	t.Parallel()
	s := flextest.New(t)
	c := client(t, s.URL())
	interaction := c.Create(t.Context(), flex.Interaction{Channel: []byte(`{"type":"sms","initiated_by":"api"}`), Routing: []byte(`{"properties":{"workspace_sid":"` + flextest.WorkspaceSID + `"}}`)})
	list, err := c.Channels(t.Context(), interaction.InteractionSID)
	if err != nil || len(list) != 1 || list[0].Status != "active" || list[0].Type != "sms" {
		t.Fatal(list, err, interaction)
	}
	channel := list[0].SID
	const nobody = "KD" + "00000000000000000000000000000009"
	for _, tt := range []struct {
		name                 string
		interaction, channel string
		trouble              flextest.Fault
		want                 flex.Kind
		status               string // of the channel, afterwards
	}{
		{"another's channel", interaction.InteractionSID, "UO" + nobody[2:], "", flex.Rejected, "active"},
		{"no interaction", nobody, channel, "", flex.Rejected, "active"},
		{"no sid", "KD1/../..", channel, "", flex.Rejected, "active"},
		{"limited", interaction.InteractionSID, channel, flextest.Status(429), flex.Refused, "active"},
		{"a failure", interaction.InteractionSID, channel, flextest.Status(503), flex.Uncertain, "active"},
		{"no answer", interaction.InteractionSID, channel, flextest.Reset, flex.Uncertain, "active"},
		{"a proxy says no", interaction.InteractionSID, channel, "404; foreign", flex.Uncertain, "active"},
		{"closed, and the answer is lost", interaction.InteractionSID, channel, flextest.CreateThenReset, flex.Uncertain, "closed"},
		{"closed already", interaction.InteractionSID, channel, "", flex.Created, "closed"},
	} {
		s.Set(flextest.Settings{CloseTrouble: tt.trouble})
		o := c.CloseChannel(t.Context(), tt.interaction, tt.channel)
		if o.Kind != tt.want || (o.Kind == flex.Created) != (o.Message == "") {
			t.Errorf("%s: %+v", tt.name, o)
		}
		if list, err := c.Channels(t.Context(), interaction.InteractionSID); err != nil || list[0].Status != tt.status {
			t.Errorf("%s: %v, %v", tt.name, list, err)
		}
	}
	second := c.Create(t.Context(), flex.Interaction{Channel: []byte(`{"type":"sms","initiated_by":"api"}`), Routing: []byte(`{"properties":{"workspace_sid":"` + flextest.WorkspaceSID + `"}}`)})
	list, err = c.Channels(t.Context(), second.InteractionSID)
	if err != nil {
		t.Fatal(err)
	}
	if o := c.CloseChannel(t.Context(), second.InteractionSID, list[0].SID); o.Kind != flex.Created || o.HTTPStatus != 200 {
		t.Errorf("%+v", o)
	}
	if n := s.Calls().Closed; n != 2 {
		t.Errorf("%d are closed", n)
	}
}

// TestChannelsUnclear: what is no list of channels tells nothing.
func TestChannelsUnclear(t *testing.T) {
	t.Parallel()
	const sid = "KD" + "00000000000000000000000000000009"
	for name, tt := range map[string]struct {
		status int
		header string
		body   string
	}{
		"a page":         {200, "", "<html>"},
		"another object": {200, "", `{"sid":"KD1"}`},
		"null":           {200, "", `{"channels":null}`},
		"no list":        {200, "", `{"channels":{"sid":"UO1"}}`},
		"from a cache":   {200, "HIT", `{"channels":[{"sid":"UO1","status":"closed"}]}`},
		"refused":        {404, "", `{"status":404,"code":20404,"message":"no","more_info":"https://www.twilio.com/docs/errors/20404"}`},
		"a failure":      {503, "", ``},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if tt.header != "" {
				w.Header().Set("X-Cache", tt.header)
			}
			w.WriteHeader(tt.status)
			_, _ = w.Write([]byte(tt.body))
		}))
		list, err := client(t, s.URL).Channels(t.Context(), sid)
		var unclear *flex.LookupError
		if list != nil || !errors.As(err, &unclear) || unclear.Message == "" || unclear.HTTPStatus != tt.status {
			t.Errorf("%s: %v, %v", name, list, err)
		}
		s.Close()
	}
}

// client is a client of this address that tests have the credentials for.
func client(t *testing.T, address string) *flex.Client {
	t.Helper()
	c, err := flex.New(flex.Config{URL: address, TaskRouterURL: address, LookupAttribute: "interaction_request", Timeout: 20 * time.Second, Concurrency: 2, UserAgent: "a test",
		Credentials: func() (string, string) { return flextest.AccountSID, flextest.AuthToken }})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
