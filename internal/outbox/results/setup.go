package results

import (
	"context"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
)

// Confirmation is what the message about a set-up has beside the keys of every result: the contract's section 4a. The
// message is a result of the request, whose outcome is the word.
type Confirmation struct {
	Task   *Task `json:"task"` // nil: no look has shown one
	Checks int   `json:"checks"`
}

// Task is how far the task has come, as the latest look that showed it.
type Task struct {
	AssignmentStatus *string `json:"assignment_status"`
	Reason           *string `json:"reason"`
}

// words are the words about set-ups behind one, each of a request whose result created was published.
func (s *Outgoing) words(ctx context.Context, last int64) ([]Answer, error) {
	answers, err := collect(ctx, s.pool, func(row pgx.CollectableRow) (Answer, error) {
		var o Settled
		var word string
		var sid, kind, why *string
		var setup flex.ChannelSetup
		var task Task
		c := Confirmation{}
		if err := row.Scan(append([]any{&word, &kind, &why, &c.Checks, &sid, &setup.Status, &setup.ErrorCode, &setup.ErrorMessage,
			&task.AssignmentStatus, &task.Reason}, o.Targets()...)...); err != nil {
			return Answer{}, err
		}
		a := o.Answer()
		a.Kind, a.Outcome, a.MessageID = SetupWord, word, o.MessageID()+"-setup"
		r := a.Body
		r.Outcome, r.Confirmation = word, &c
		if task != (Task{}) {
			c.Task = &task
		}
		channel := flex.Channel{SID: sid, ChannelSetup: &setup}
		if r.Channel != nil {
			channel.Type = r.Channel.Type
			if sid == nil {
				channel.SID = r.Channel.SID
			}
		}
		r.Channel, r.Error = &channel, nil
		if kind != nil {
			r.Error = &Error{Kind: *kind, TwilioCode: setup.ErrorCode, Faults: JSONNull}
			if why != nil {
				r.Error.Message = *why
			}
		}
		a.Body = r
		return a, nil
	}, WordsSQL, last, batchMost)
	return answers, database.Wrap("setup words", err)
}
