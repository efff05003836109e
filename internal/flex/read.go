package flex

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// nobody is a sid of the right form that Twilio never gives away.
const nobody = "KD00000000000000000000000000000000"

// Fetch reads one interaction. Of a read the kinds mean: Created, it exists and
// Response shows it; Rejected, it does not exist or cannot be asked for; all
// others, nothing was learned about it.
func (c *Client) Fetch(ctx context.Context, sid string) Outcome {
	began := time.Now()
	if !interactionSID.MatchString(sid) { // it would become part of an address
		return Outcome{Kind: Rejected, Unreached: true, ErrorKind: "request", Message: "not the sid of an interaction"}
	}
	o := c.fetch(ctx, sid).outcome(began)
	if o.Kind == Created && !strings.EqualFold(o.InteractionSID, sid) {
		return Outcome{Answered: true, HTTPStatus: o.HTTPStatus, ErrorKind: "other_sid", Took: o.Took,
			Message: "asked for " + sid + " and answered with " + o.InteractionSID}
	}
	return o
}

// Check finds out whether Flex takes our credentials, at our address, by asking
// for an interaction that cannot exist. The good answer is therefore Rejected:
// Twilio's 404, from which we know that we were let in. Blocked says what would
// block a create too, and also that Flex is not set up; everything else says that
// nothing was learned, as when somebody else than Twilio answers. It does not prove that
// Create's path is right: at any other path Twilio's 404 is the same.
func (c *Client) Check(ctx context.Context) Outcome {
	began := time.Now()
	o := c.fetch(ctx, nobody).outcome(began)
	if o.Kind == Rejected && (o.TwilioCode == 45009 || o.TwilioCode == 45103) {
		o.Kind = Blocked
	}
	return o
}

func (c *Client) fetch(ctx context.Context, sid string) answer {
	return c.exchange(ctx, http.MethodGet, c.flexURL+"/v1/Interactions/"+sid, "", nil)
}
