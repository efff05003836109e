package api

import (
	"errors"

	"flexworker/internal/flex"
	"flexworker/internal/outbox/operator"
)

// An erasure is what an erase has done.
type erasure struct {
	Act       string            `json:"act"`
	Messages  []operator.Asking `json:"messages"`  // of the request stream: they still have what was erased
	Unreached []string          `json:"unreached"` // where it may still stand, a sentence each
}

// readErase erases what is personal in a settled request.
func readErase(c *call, f fields) action {
	a := f.why()
	a.Seen = c.seen(f)
	return func(c *call) (any, error) {
		e, err := c.desk.Erase(c.Context(), a, c.id())
		switch {
		case errors.Is(err, operator.ErrStale):
			d, err := c.desk.Show(c.Context(), c.id())
			if err != nil {
				return nil, err
			}
			return nil, stale(a, d)
		case err != nil:
			return nil, err
		}
		if e.Request.RequestID != "" {
			c.tag = e.Request.Tag()
		}
		return erasure{Act: "erase", Messages: append([]operator.Asking{}, e.Messages...), Unreached: e.Unreached()}, nil
	}
}

// A closure is what a close has closed.
type closure struct {
	Act      string              `json:"act"`
	Channels []flex.ChannelState `json:"channels"` // as they were before
	Said     []string            `json:"said"`     // what Flex shows of both interactions
}

// readClose closes the channel of a duplicate.
func readClose(c *call, f fields) action {
	a := f.why()
	a.Seen = c.seen(f)
	closing := operator.Closing{Duplicate: f.required("duplicate", 256), Unverified: f.flag("unverified")}
	if closing.Duplicate != "" && !operator.IsSID(closing.Duplicate) {
		f.wrong("duplicate", "must be KD and 32 hexadecimal digits")
	}
	return func(c *call) (any, error) {
		done, err := c.desk.Close(c.Context(), a, c.id(), closing)
		switch {
		case errors.Is(err, operator.ErrMayBeClosed):
			p := newProblem("outcome-unknown", err.Error())
			p.Said = done.Said
			return nil, p
		case errors.Is(err, operator.ErrStale):
			d, err := c.desk.Show(c.Context(), c.id())
			if err != nil {
				return nil, err
			}
			return nil, stale(a, d)
		case err != nil:
			if p, known := problemOf(err); known {
				p.Said = done.Said
				return nil, p
			}
			return nil, err
		}
		return closure{Act: "close", Channels: done.Channels, Said: done.Said}, nil
	}
}
