package flex

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"flexworker/internal/rawjson"
)

// alreadyClosed is Twilio's code for what was closed before. https://www.twilio.com/docs/api/errors/80906
const alreadyClosed = 80906

// ChannelState is a channel of an interaction as Flex shows it now. What Flex does not say is "".
type ChannelState struct {
	SID    string `json:"sid"` // UO
	Type   string `json:"type"`
	Status string `json:"status"` // setup, active, failed, closed, inactive, pause, transfer
}

// Channels reads the channels of an interaction. Its error is a *LookupError: nothing was learned.
func (c *Client) Channels(ctx context.Context, interactionSID string) ([]ChannelState, error) {
	if !IsSID(interactionSID, "KD") { // it would become part of an address
		return nil, unclear("request", "not the sid of an interaction")
	}
	began := time.Now()
	a := c.exchange(ctx, http.MethodGet, c.channelsURL(interactionSID), "", nil)
	o := a.outcome(began)
	cached := a.cached() // it may show what was there before
	raw, ok := rawjson.Member(a.body, "channels")
	var list []ChannelState
	switch {
	case a.status != http.StatusOK:
		return nil, &LookupError{Limited: o.Limited, RetryAfter: o.RetryAfter, ErrorKind: o.ErrorKind,
			Message: o.Message, HTTPStatus: o.HTTPStatus, TwilioCode: o.TwilioCode, RequestID: o.RequestID}
	case !a.whole || cached || !ok || json.Unmarshal(raw, &list) != nil || list == nil:
		return nil, &LookupError{ErrorKind: "answer", Message: "the answer is cut, comes from a cache, or is no list of channels", HTTPStatus: a.status, RequestID: o.RequestID}
	}
	return list, nil
}

// CloseChannel closes a channel of an interaction, and ends its tasks. Its conversation becomes read-only with it,
// whichever other interaction has the same. Of a close the kinds mean: Created, the channel is closed, or was before;
// Rejected, Blocked and Refused, it surely was not closed; Uncertain, nobody knows. To ask again does no harm.
func (c *Client) CloseChannel(ctx context.Context, interactionSID, channelSID string) Outcome {
	if !IsSID(interactionSID, "KD") || !IsSID(channelSID, "UO") {
		return Outcome{Kind: Rejected, Unreached: true, ErrorKind: "request", Message: "not the sids of an interaction and its channel"}
	}
	began := time.Now()
	form := appendField(appendField(nil, "Status", []byte("closed")), "Routing", []byte(`{"status":"closed"}`))
	a := c.exchange(ctx, http.MethodPost, c.channelsURL(interactionSID)+"/"+channelSID, string(form), nil)
	o := a.outcome(began)
	switch {
	case o.Answered && a.whole && !a.cached() && textAt(a.body, "sid") == channelSID && textAt(a.body, "status") == "closed",
		o.Kind == Rejected && o.TwilioCode == alreadyClosed:
		o.Kind, o.ErrorKind, o.Message = Created, "", ""
	case o.Answered: // which an outcome reads as the answer to a create
		o.Kind, o.ErrorKind, o.Message = Uncertain, "answer", "the answer does not show that the channel is closed"
	}
	return o
}

func (c *Client) channelsURL(interactionSID string) string {
	return c.flexURL + "/v1/Interactions/" + interactionSID + "/Channels"
}
