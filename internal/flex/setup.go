package flex

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
)

// Setup is how Flex is set up in the account that asks.
// https://www.twilio.com/docs/flex/developer/config/flex-configuration-rest-api
type Setup struct {
	AccountSID   string // "": not told
	Status       string // ok, inprogress, notstarted; "": not told
	WorkspaceSID string // of the account's TaskRouter workspace; "": none, or not told
}

// Setup reads how Flex is set up. Its error is a *LookupError, which says nothing about the setup.
func (c *Client) Setup(ctx context.Context) (s Setup, err error) {
	err = c.ask(ctx, c.flexURL+"/v1/Configuration", func(body io.Reader) error {
		raw, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
		if err != nil || len(raw) > maxAnswer || !json.Valid(raw) {
			return errors.Join(err, errors.New("not a configuration"))
		}
		s = Setup{AccountSID: textAt(raw, "account_sid"), Status: textAt(raw, "status"), WorkspaceSID: textAt(raw, "taskrouter_workspace_sid")}
		if !workspaceForm.MatchString(s.WorkspaceSID) {
			s.WorkspaceSID = ""
		}
		return nil
	})
	return s, err
}

// Workflows reads the sids of a workspace's workflows, the first 1,000 of them. Its error is a *LookupError.
func (c *Client) Workflows(ctx context.Context, workspaceSID string) (sids []string, err error) {
	if !workspaceForm.MatchString(workspaceSID) {
		return nil, unclear("request", "not the sid of a workspace")
	}
	_, err = c.page(ctx, c.taskRouterURL+"/v1/Workspaces/"+workspaceSID+"/Workflows", url.Values{"PageSize": {"1000"}}, "workflows", func(raw []byte) {
		if sid := textAt(raw, "sid"); IsSID(sid, "WW") {
			sids = append(sids, sid)
		}
	})
	return sids, err
}
