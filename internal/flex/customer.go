package flex

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
)

// A TaskState is how far a task has come. Its texts are of TaskRouter's choice: bounded, without secrets.
type TaskState struct {
	Status string // assignment_status; "": not told
	Reason string // why it ended, where TaskRouter says so
}

// Refused says whether Twilio has decided that this read is not allowed, or that there is nothing to read.
func (e *LookupError) Refused() bool {
	return e.HTTPStatus/100 == 4 && e.TwilioCode != 0 && !e.Limited && e.HTTPStatus != http.StatusRequestTimeout
}

// HasCustomer says whether a customer is among the participants of a channel. Its error is a *LookupError.
func (c *Client) HasCustomer(ctx context.Context, interaction, channel string) (bool, error) {
	if !interactionSID.MatchString(interaction) || !IsSID(channel, "UO") {
		return false, unclear("request", "not the sids of an interaction and its channel")
	}
	found := false
	err := c.each(ctx, c.channelsURL(interaction)+"/"+channel+"/Participants", "participants", func(raw []byte) {
		found = found || textAt(raw, "type") == "customer"
	})
	return found && err == nil, err
}

// each reads a list to its end.
func (c *Client) each(ctx context.Context, base, name string, take func(raw []byte)) error {
	query := url.Values{"PageSize": {"50"}}
	for range maxPages {
		next, err := c.page(ctx, base, query, name, take)
		if err != nil || next == "" {
			return err
		}
		query.Set("PageToken", next)
	}
	return unclear("too_many", "more than %d pages of %s", maxPages, name)
}

// Task reads how far a task has come. Its error is a *LookupError; of a task that TaskRouter no longer has, one with the
// status 404.
func (c *Client) Task(ctx context.Context, workspace, task string) (state TaskState, err error) {
	if !workspaceForm.MatchString(workspace) || !taskSID.MatchString(task) {
		return state, unclear("request", "not the sids of a workspace and its task")
	}
	err = c.ask(ctx, c.taskRouterURL+"/v1/Workspaces/"+workspace+"/Tasks/"+task, func(body io.Reader) error {
		raw, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
		switch {
		case err != nil || len(raw) > maxAnswer || !json.Valid(raw):
			return errors.Join(err, errors.New("not a task"))
		case textAt(raw, "sid") != task:
			return errors.New("not that task")
		}
		state = TaskState{Status: c.shown(textAt(raw, "assignment_status")), Reason: c.shown(textAt(raw, "reason"))}
		return nil
	})
	return state, err
}

// shown is a text of an answer as it may be stored and shown.
func (c *Client) shown(text string) string {
	if text == "" {
		return ""
	}
	return answer{secrets: c.login().secrets, paths: c.paths}.clean(text, maxMessage)
}
