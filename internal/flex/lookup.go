package flex

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"flexworker/internal/rawjson"
)

// MaxKeys is how many keys one SearchTasks may ask for.
const MaxKeys = 20

const (
	maxPages   = 10 // of one search, 50 tasks each
	maxSingles = 20 // tasks that one search asks for by sid, when a list hides attributes
)

// Task is a task that carries our key, as a lookup found it.
type Task struct {
	TaskSID          string
	Key              string    // the value of our attribute
	InteractionSID   string    // "": the task does not name its interaction
	AssignmentStatus string    // "": not told
	DateCreated      time.Time // zero: not told
}

// LookupError is why a lookup learned nothing. It is never a statement about
// tasks: absence must not be concluded from it.
type LookupError struct {
	Limited    bool          // 429: ask again later, all of the fleet more slowly
	RetryAfter time.Duration // 0: none given; within [0, 1 h]
	ErrorKind  string        // one word, as in Outcome
	Message    string        // bounded, without secrets
	HTTPStatus int           // 0: no status line was read
	TwilioCode int           // 0: none
	RequestID  string        // Twilio-Request-Id
}

// Error is the error in prose.
func (e *LookupError) Error() string { return "lookup: " + e.ErrorKind + ": " + e.Message }

var lookupKey = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)

// SearchTasks asks TaskRouter for the tasks of a workspace that carry one of keys,
// 1 to MaxKeys, in the task attribute under which they were sent: that of whoever
// asks may be another. What it returns is there. What it does not return may be absent
// only if one key was asked for, as nobody documents that the filter understands a
// list; and even then it may not be listed yet, or no longer. Its error is a
// *LookupError.
func (c *Client) SearchTasks(ctx context.Context, workspaceSID, attribute string, keys []string) ([]Task, error) {
	filter, err := expression(workspaceSID, attribute, keys)
	if err != nil {
		return nil, err
	}
	base := c.taskRouterURL + "/v1/Workspaces/" + workspaceSID + "/Tasks"
	query := url.Values{"EvaluateTaskAttributes": {filter}, "PageSize": {"50"}}
	var found []Task
	singles := 0
	for range maxPages {
		var hidden []string // sids of tasks whose attributes the list did not show
		next, err := c.page(ctx, base, query, "tasks", func(raw []byte) {
			switch task := taskFrom(raw, attribute); {
			case slices.Contains(keys, task.Key):
				found = append(found, task)
			case task.Key == "" && len(hidden) <= maxSingles:
				hidden = append(hidden, task.TaskSID)
			}
		})
		if err != nil {
			return nil, err
		}
		for _, sid := range hidden {
			if singles++; singles > maxSingles {
				return nil, unclear("too_many", "more than %d tasks came without their attributes", maxSingles)
			}
			// A task that is gone by now did match a moment ago. That is no
			// absence, so its 404 is an error like all others.
			task, err := c.single(ctx, base, attribute, sid)
			if err != nil {
				return nil, err
			}
			if slices.Contains(keys, task.Key) {
				found = append(found, task)
			}
		}
		if next == "" {
			return found, nil
		}
		query.Set("PageToken", next)
	}
	return nil, unclear("too_many", "more than %d pages of tasks", maxPages)
}

// expression builds the filter. Its parts are of letters, digits and _ only, as no
// rule for escaping is documented.
func expression(workspaceSID, attribute string, keys []string) (string, error) {
	switch {
	case !attributeName.MatchString(attribute):
		return "", unclear("request", "no lookup attribute, or one of other characters than letters, digits and _")
	case !workspaceForm.MatchString(workspaceSID):
		return "", unclear("request", "not the sid of a workspace")
	case len(keys) == 0 || len(keys) > MaxKeys:
		return "", unclear("request", "%d keys; 1 to %d can be asked for", len(keys), MaxKeys)
	}
	for _, key := range keys {
		if !lookupKey.MatchString(key) {
			return "", unclear("request", "a lookup key of other characters than letters, digits and _")
		}
	}
	if len(keys) == 1 {
		return fmt.Sprintf("%s == %q", attribute, keys[0]), nil
	}
	return fmt.Sprintf(`%s IN ["%s"]`, attribute, strings.Join(keys, `", "`)), nil
}

// single reads one task by its sid. One that does not show its attributes tells
// nothing, not even that it is another's.
func (c *Client) single(ctx context.Context, base, attribute, sid string) (task Task, err error) {
	if !taskSID.MatchString(sid) {
		return Task{}, unclear("answer", "a task without a sid")
	}
	err = c.ask(ctx, base+"/"+sid, func(body io.Reader) error {
		raw, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
		if err != nil || len(raw) > maxAnswer || !json.Valid(raw) {
			return errors.Join(err, errors.New("not a task"))
		}
		task = taskFrom(raw, attribute)
		if attributes, _ := rawjson.Member(raw, "attributes"); !strings.EqualFold(task.TaskSID, sid) || object(attributes) == nil {
			return errors.New("not that task's attributes")
		}
		return nil
	})
	return task, err
}

// ask reads an address of TaskRouter: take has the body of a 200.
func (c *Client) ask(ctx context.Context, address string, take func(body io.Reader) error) error {
	began := time.Now()
	a := c.exchange(ctx, http.MethodGet, address, "", take)
	cached := a.cached() // it may show what was there before the attempt
	if a.status == http.StatusOK && a.whole && !cached {
		return nil
	}
	o := a.outcome(began)
	if o.Answered { // which an outcome reads as the answer to a create
		o.ErrorKind, o.Message = "answer", "the answer is cut, too long, or not what was asked for"
	}
	if cached {
		o.ErrorKind, o.Message = "answer", "the answer comes from a cache"
	}
	return &LookupError{
		Limited: o.Limited, RetryAfter: o.RetryAfter, ErrorKind: o.ErrorKind,
		Message: o.Message, HTTPStatus: o.HTTPStatus, TwilioCode: o.TwilioCode, RequestID: o.RequestID,
	}
}

// taskFrom reads a task resource; what it does not say stays zero.
func taskFrom(raw []byte, attribute string) Task {
	created, _ := rawjson.Member(raw, "date_created")
	task := Task{
		TaskSID: textAt(raw, "sid"), AssignmentStatus: textAt(raw, "assignment_status"), DateCreated: timeOf(created),
	}
	attributes, _ := rawjson.Member(raw, "attributes")
	task.Key, task.InteractionSID = named(object(attributes), attribute)
	return task
}

// named reads our key, which stands under attribute, and the interaction's sid out of
// a task's attributes.
func named(attributes []byte, attribute string) (key, sid string) {
	for _, path := range [][]string{{"flexInteractionSid"}, {"conversations", "conversation_id"}} {
		if sid = textAt(attributes, path...); interactionSID.MatchString(sid) {
			break
		}
		sid = ""
	}
	return textAt(attributes, attribute), sid
}

// KeyIn is our key in the task of an interaction, of which response is Flex's answer
// to a create or a fetch; attribute is the name under which it was sent. "" when it
// shows none.
func KeyIn(response json.RawMessage, attribute string) string {
	attributes, _ := rawjson.Member(response, "routing", "properties", "attributes")
	return textAt(object(attributes), attribute)
}

// object is the object in raw, which may be one or a string that holds one; nil
// when it is neither.
func object(raw []byte) []byte {
	if held, ok := rawjson.Text(raw); ok {
		raw = held
	}
	if !isObject(raw) {
		return nil
	}
	return raw
}

// unclear is a lookup that failed on our side, or on what the answer says.
func unclear(kind, format string, args ...any) *LookupError {
	return &LookupError{ErrorKind: kind, Message: fmt.Sprintf(format, args...)}
}
