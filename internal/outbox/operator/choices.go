package operator

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/outbox/request"
)

// A Choice is an act that a person may do to one request as it stands, and what becomes of the request by it.
type Choice struct {
	Act        string `json:"act"`        // as outbox_acts records it: retry, cancel, lookup, republish, resolve created, resolve absent
	Unverified bool   `json:"unverified"` // it is possible only for who says that nobody needs to be asked
	Becomes    string `json:"becomes"`    // a sentence
}

// singular are the words of Affected.Of for one request.
var singular = strings.NewReplacer("before they are", "before it is", "they end", "it ends", "finds them", "finds it")

// Becomes says in a sentence what becomes of one request. what is a key of Affected.Of.
func Becomes(what string) string { return "It is " + singular.Replace(what) + "." }

// Choices are the acts that the table would allow on a request now, by the conditions of the acts themselves. There
// are none while it is being sent. Erase is not among them: it changes nothing about where the request stands.
func (desk *Desk) Choices(ctx context.Context, requestID string) ([]Choice, error) {
	changes := []Change{ToRetry(false), ToCancel(), ToLookUp(), ToRepublish()}
	var columns strings.Builder
	for _, c := range changes {
		columns.WriteString(`CASE WHEN true` + c.can + ` THEN ` + c.what + ` END, `)
	}
	becomes := make([]*string, len(changes))
	targets := make([]any, 0, len(changes)+4)
	for i := range becomes {
		targets = append(targets, &becomes[i])
	}
	var uncertain, found bool // found: somebody may be asked whether it exists, and no lookup goes on
	var end, channel string
	err := desk.read(ctx, "choices", func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
		SELECT `+columns.String()+`state = 'uncertain', `+absentEnd+`,
		       (due_at IS NULL OR for_person_since IS NOT NULL) AND lookup_key IS NOT NULL AND lookup_attribute IS NOT NULL AND `+request.WorkspaceSQL+` IS NOT NULL,
		       coalesce(request #>> '{channel,type}', '')
		  FROM outbox o WHERE request_id = $1`, requestID).Scan(append(targets, &uncertain, &end, &found, &channel)...)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	choices := []Choice{}
	if uncertain {
		choices = append(choices, Choice{Act: "resolve created", Becomes: "It is created under the sid that you give."},
			Choice{Act: "resolve absent", Unverified: !found, Becomes: absentBecomes(end, channel)})
	}
	for i, what := range becomes {
		if what == nil {
			continue
		}
		choices = append(choices, Choice{Act: changes[i].Name, Becomes: Becomes(*what)})
		if changes[i].Name == "retry" && strings.HasPrefix(*what, AskedFirst) {
			choices = append(choices, Choice{Act: "retry", Unverified: true, Becomes: "It is sent again unasked: if an attempt has created it, " + twice(channel) + "."})
		}
	}
	return choices, nil
}

// absentBecomes says what becomes of a request that is said not to exist, by the state that it gets and the type of its channel.
func absentBecomes(end, channel string) string {
	switch request.State(end) {
	case request.Pending:
		return "It is sent again: if it exists, " + twice(channel) + "."
	case request.Cancelled:
		return "It is cancelled, and never sent again."
	case request.Expired:
		return "It is expired: its expires_at has passed."
	default:
		return "It is " + end + ", the end that it waits for."
	}
}

// twice says what happens to the customer of a request that exists and is sent again, by the type of its channel.
func twice(channel string) string {
	switch channel {
	case "voice":
		return "its customer is called twice"
	case "":
		return "its customer is contacted twice"
	default:
		return "its customer is contacted twice, by " + ChannelName(channel)
	}
}

// ChannelName is the type of a channel as people write it.
func ChannelName(channel string) string {
	switch channel {
	case "sms":
		return "SMS"
	case "whatsapp":
		return "WhatsApp"
	default:
		return channel
	}
}
