package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"flexworker/internal/flex"
)

// Account is what the settings say of Twilio.
type Account struct {
	SID       string // TWILIO_ACCOUNT_SID; "": an API key is used, which decides the account
	Attribute string // LOOKUP_ATTRIBUTE; "": none
}

// Twilio asks Flex and TaskRouter. No question creates anything.
func (r *Report) Twilio(ctx context.Context, client *flex.Client, account Account) {
	o := client.Check(ctx)
	if !r.credentials(o) {
		r.unknown("flex", "Flex does not let this worker in", "configuration")
		r.unknown("taskrouter", "Flex does not let this worker in", "workspace", "lookups")
		return
	}
	setup, err := client.Setup(ctx)
	switch refusal := (*flex.LookupError)(nil); {
	case errors.As(err, &refusal):
		r.add("flex", "configuration", Unknown, "look at it with an account that may read GET /v1/Configuration", "it cannot be read: %s", refusal.Message)
	case setup.AccountSID != "" && account.SID != "" && !strings.EqualFold(setup.AccountSID, account.SID):
		r.add("flex", "configuration", Fault, "put TWILIO_ACCOUNT_SID right", "it is that of another account, %s", setup.AccountSID)
	case setup.Status != "ok":
		r.add("flex", "configuration", Fault, "finish the set-up of Flex in Twilio's console", "Flex is not set up in this account: its status is %q", setup.Status)
	case setup.WorkspaceSID == "":
		r.add("flex", "configuration", Fault, "have Flex set up a TaskRouter workspace in Twilio's console", "it names no TaskRouter workspace")
	default:
		r.add("flex", "configuration", OK, "", "Flex is set up, with workspace %s", setup.WorkspaceSID)
	}
	if setup.WorkspaceSID == "" {
		r.unknown("taskrouter", "the workspace is not known", "workspace", "lookups")
		return
	}
	r.workspace(ctx, client, setup.WorkspaceSID)
	r.lookups(ctx, client, setup.WorkspaceSID, account.Attribute)
}

// credentials says whether Flex lets us in.
func (r *Report) credentials(o flex.Outcome) bool {
	add := func(status Status, do, says string) { r.add("flex", "credentials", status, do, "%s", says) }
	words := o.Message
	if o.HTTPStatus != 0 {
		words = fmt.Sprintf("HTTP status %d, code %d: %s", o.HTTPStatus, o.TwilioCode, o.Message)
	}
	switch {
	case o.Kind == flex.Rejected && o.HTTPStatus == 404 && o.FromTwilio:
		add(OK, "", "Flex lets this worker in")
		return true
	case o.UnknownPath, flex.Redirected(o):
		add(Settings, "put FLEX_URL right: https://"+flex.FlexHost, words)
	case o.Kind == flex.Blocked && (o.TwilioCode == 45009 || o.TwilioCode == 45103):
		add(Fault, "set up Flex in Twilio's console", words)
	case o.Kind == flex.Blocked:
		add(Settings, "put TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN, or TWILIO_API_KEY and TWILIO_API_SECRET, right; a standard key is needed, of an active account", words)
	default:
		add(Away, "is FLEX_URL right, and reached from here (HTTPS_PROXY, firewall)? Else wait for Twilio", "Flex does not answer as itself: "+words)
	}
	return false
}

func (r *Report) workspace(ctx context.Context, client *flex.Client, workspace string) {
	sids, err := client.Workflows(ctx, workspace)
	switch refusal := (*flex.LookupError)(nil); {
	case errors.As(err, &refusal) && refusal.HTTPStatus == 404:
		r.add("taskrouter", "workspace", Fault, "create it, or put TASKROUTER_URL right", "TaskRouter has no workspace %s: %s", workspace, refusal.Message)
	case errors.As(err, &refusal) && refusal.HTTPStatus >= 400 && refusal.HTTPStatus < 500:
		r.add("taskrouter", "workspace", Unknown, "look in Twilio's console whether it has a workflow", "its workflows cannot be read: %s", refusal.Message)
	case err != nil:
		r.add("taskrouter", "workspace", Away, "is TASKROUTER_URL right, and reached from here?", "its workflows cannot be read: %v", err)
	case len(sids) == 0:
		r.add("taskrouter", "workspace", Fault, "create a workflow: a request names one in routing.properties.workflow_sid", "workspace %s has no workflow", workspace)
	default:
		r.add("taskrouter", "workspace", OK, "", "workspace %s has %d workflows: %s", workspace, len(sids), strings.Join(sids[:min(len(sids), 5)], ", "))
	}
}

// lookups makes the search that a lookup makes, for a key that nothing has.
func (r *Report) lookups(ctx context.Context, client *flex.Client, workspace, attribute string) {
	if attribute == "" {
		r.add("taskrouter", "lookups", Advice, "set LOOKUP_ATTRIBUTE", "there are none: what becomes of an attempt without an answer is for a person to find out (UNCERTAIN_POLICY)")
		return
	}
	_, err := client.SearchTasks(ctx, workspace, attribute, []string{flex.LookupKey("doctor")})
	switch refusal := (*flex.LookupError)(nil); {
	case errors.As(err, &refusal) && refusal.Limited:
		r.add("taskrouter", "lookups", OK, "", "TaskRouter answers, and wants fewer searches at this moment")
	case errors.As(err, &refusal) && refusal.HTTPStatus >= 400 && refusal.HTTPStatus < 500:
		r.add("taskrouter", "lookups", Fault, "let these credentials read TaskRouter's tasks: without that an attempt without an answer waits for a person", "refused: HTTP status %d, %s", refusal.HTTPStatus, refusal.Message)
	case err != nil:
		r.add("taskrouter", "lookups", Away, "is TASKROUTER_URL right, and reached from here?", "%v", err)
	default:
		r.add("taskrouter", "lookups", OK, "", "tasks can be searched by %s", attribute)
	}
}
