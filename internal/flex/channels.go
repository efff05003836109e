package flex

import (
	"context"
	"net/http"
	"strconv"
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
	// ErrorCode is Twilio's, 0: none; ErrorMessage is bounded and without secrets.
	ErrorCode    int    `json:"error_code"`
	ErrorMessage string `json:"error_message"`
}

// Channels reads the channels of an interaction. Its error is a *LookupError: nothing was learned.
func (c *Client) Channels(ctx context.Context, interactionSID string) ([]ChannelState, error) {
	if !IsSID(interactionSID, "KD") { // it would become part of an address
		return nil, unclear("request", "not the sid of an interaction")
	}
	channels := []ChannelState{}
	err := c.each(ctx, c.channelsURL(interactionSID), "channels", func(raw []byte) {
		text := func(name string) string { return c.shown(textAt(raw, name)) }
		state := ChannelState{SID: text("sid"), Type: text("type"), Status: text("status"), ErrorMessage: text("error_message")}
		if value, ok := rawjson.Member(raw, "error_code"); ok {
			code, _ := strconv.ParseInt(string(value), 10, 32) // else 0: no code of Twilio's
			state.ErrorCode = int(code)
		}
		channels = append(channels, state)
	})
	if err != nil {
		return nil, err
	}
	return channels, nil
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
