package operator

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"flexworker/internal/database"
	"flexworker/internal/flex"
)

// A Closing is what a person wants closed: the channels of a duplicate of a request's interaction.
type Closing struct {
	Duplicate string // the sid of the interaction, KD
	// Unverified: the person is believed that it is this request's, and that its conversation is none of the interaction
	// that is kept, where Flex shows neither. What Flex does show is never overruled.
	Unverified bool
}

// A Closure is what a close rests on, and what it closes.
type Closure struct {
	Request  Detail
	Said     []string            // what Flex shows of the duplicate and of the interaction that is kept, a sentence each
	Channels []flex.ChannelState // of the duplicate, as they were before, without those that were closed already
}

// Why a channel was not closed. Nothing was changed, but by ErrMayBeClosed.
var (
	// ErrKept is returned for the interaction that is kept as the request's own.
	ErrKept = errors.New("outbox: it is the interaction of the request")
	// ErrShared is returned for an interaction whose conversation is that of the one that is kept, or may be.
	ErrShared = errors.New("outbox: its conversation is that of the interaction that is kept")
	// ErrClosed is returned for an interaction whose channels are all closed already.
	ErrClosed = errors.New("outbox: it is closed already")
	// ErrNotClosed is returned where Flex refuses to close a channel.
	ErrNotClosed = errors.New("outbox: Flex has not closed it")
	// ErrMayBeClosed is returned where nobody knows whether Flex has closed a channel. The act is recorded; asked for again it
	// does no harm.
	ErrMayBeClosed = errors.New("outbox: it may be closed")
)

// Close closes the channels of a duplicate, if PreviewClose has nothing against it: Twilio's only way to end one. With a
// channel its conversation becomes read-only.
//
// It is recorded before Flex is called, as a claim is, so that no channel is closed without a record, whatever dies. Where
// Flex surely has closed nothing, the record says so.
func (desk *Desk) Close(ctx context.Context, a Act, requestID string, closing Closing) (Closure, error) {
	c, finder, err := desk.weighClose(ctx, a, requestID, closing)
	if err != nil {
		return c, err
	}
	act, err := desk.recordClose(ctx, a, c, closing.Duplicate)
	if err != nil {
		return c, err
	}
	for i, channel := range c.Channels {
		switch o := finder.CloseChannel(ctx, closing.Duplicate, channel.SID); {
		case o.Kind == flex.Created:
		case o.Kind == flex.Uncertain:
			return c, fmt.Errorf("%w: %s", ErrMayBeClosed, o.Message)
		case i > 0: // one is closed
			return c, fmt.Errorf("%w: %s was refused: %s", ErrMayBeClosed, channel.SID, o.Message)
		default:
			return c, errors.Join(fmt.Errorf("%w: %s", ErrNotClosed, o.Message), desk.recordRefused(ctx, act))
		}
	}
	return c, nil
}

// PreviewClose says what Close would close, and what that rests on, or why it would refuse. It asks Flex, and changes
// nothing.
func (desk *Desk) PreviewClose(ctx context.Context, a Act, requestID string, closing Closing) (Closure, error) {
	c, _, err := desk.weighClose(ctx, a, requestID, closing)
	return c, err
}

// weighClose holds a close against what is known, and against what Flex shows now.
func (desk *Desk) weighClose(ctx context.Context, a Act, requestID string, closing Closing) (c Closure, f Flex, err error) {
	if err = desk.mayAct(a); err != nil {
		return c, nil, err
	}
	if !flex.IsSID(closing.Duplicate, "KD") {
		return c, nil, fmt.Errorf("%w: %s is not the sid of an interaction: KD and 32 hexadecimal digits", ErrRefused, closing.Duplicate)
	}
	if c.Request, err = desk.Show(ctx, requestID); err != nil {
		return c, nil, err
	}
	kept := c.Request.InteractionSID
	switch attempt := a.attempt(); {
	case attempt != nil && *attempt != c.Request.Attempt:
		return c, nil, ErrOtherAttempt
	case a.Seen != "" && a.Seen != c.Request.Tag():
		return c, nil, ErrStale
	case !c.Request.State.Final(): // a lookup may adopt it yet
		return c, nil, ErrNotSettled
	case kept != nil && strings.EqualFold(*kept, closing.Duplicate):
		return c, nil, ErrKept
	case desk.asks == nil:
		return c, nil, ErrCannotAsk
	}
	var owner *string
	err = desk.reads.QueryRow(ctx, `SELECT min(request_id) FROM outbox WHERE interaction_sid = $1`, closing.Duplicate).Scan(&owner)
	switch {
	case err != nil:
		return c, nil, unread("close", err)
	case owner != nil:
		return c, nil, fmt.Errorf("%w: %s is the interaction of %s", ErrNotIts, closing.Duplicate, *owner)
	}
	if f, _, err = desk.finder(); err != nil {
		return c, nil, err
	}
	seen := f.Fetch(ctx, closing.Duplicate)
	if seen.Kind != flex.Created {
		return c, f, fmt.Errorf("%w: %s", ErrNotShown, seen.Message)
	}
	c.Said = append(c.Said, portrait(closing.Duplicate, seen)+".")
	key := flex.KeyIn(seen.Response, c.Request.attribute())
	if why := notOf(c.Request, closing.Duplicate, seen); why != "" && (!closing.Unverified || key != "") { // what Flex does show is never overruled
		return c, f, fmt.Errorf("%w: %s", ErrNotIts, why)
	}
	if key == "" && !closing.Unverified {
		return c, f, fmt.Errorf("%w: Flex shows no lookup key of %s, so nothing says that it is this request's", ErrNotIts, closing.Duplicate)
	}
	if kept != nil {
		own := f.Fetch(ctx, *kept)
		if own.Kind == flex.Created {
			c.Said = append(c.Said, "It is kept: "+portrait(*kept, own)+".")
		}
		if why := mayShare(seen, own, closing.Unverified); why != "" {
			return c, f, fmt.Errorf("%w: %s", ErrShared, why)
		}
	}
	channels, err := f.Channels(ctx, closing.Duplicate)
	if err != nil {
		return c, f, fmt.Errorf("%w: its channels: %w", ErrNotShown, err)
	}
	for _, channel := range channels {
		if channel.Status != "closed" {
			c.Channels = append(c.Channels, channel)
		}
	}
	if len(c.Channels) == 0 {
		return c, f, ErrClosed
	}
	return c, f, nil
}

// mayShare says why the conversation of a duplicate is, or may be, that of the interaction that is kept; "": it is
// another, or the person is believed that it is.
func mayShare(duplicate, kept flex.Outcome, believed bool) string {
	channel, routing := flex.Describe(duplicate.Response)
	keptChannel, keptRouting := flex.Describe(kept.Response)
	if channel != nil && keptChannel != nil && channel.SID != nil && keptChannel.SID != nil && *channel.SID == *keptChannel.SID {
		return "both have the channel " + *channel.SID
	}
	its, own := conversation(routing), conversation(keptRouting)
	switch {
	case its != "" && its == own:
		return "both have " + its
	case believed:
		return ""
	case kept.Kind != flex.Created:
		return "Flex does not show the interaction that is kept: " + kept.Message
	case its == "" || own == "":
		return "Flex does not show the conversations of both, so nobody can tell that they differ"
	}
	return ""
}

// conversation is the sid of a conversation; "": it is not shown.
func conversation(r *flex.Routing) string {
	if r == nil || r.ConversationSID == nil {
		return ""
	}
	return *r.ConversationSID
}

// recordClose records that somebody closes a duplicate, unless the request has changed since it was weighed, or the
// interaction has become one that is kept.
func (desk *Desk) recordClose(ctx context.Context, a Act, c Closure, duplicate string) (act int64, err error) {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	was := duplicate
	for _, channel := range c.Channels {
		was += " (" + channel.SID + " " + channel.Status + ")"
	}
	err = desk.pool.QueryRow(ctx, `
		INSERT INTO outbox_acts (who, why, act, request_id, was, attempt)
		SELECT $2, $3, 'close', request_id, $4, $5 FROM outbox
		 WHERE request_id = $1 AND `+tagSQL+` = $6 AND NOT EXISTS (SELECT FROM outbox o WHERE o.interaction_sid = $7)
		RETURNING id`, c.Request.RequestID, desk.caller.Name, a.Why, was, a.attempt(), string(c.Request.Tag()), duplicate).Scan(&act)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, ErrStale
	}
	return act, database.Wrap("close", err)
}

// recordRefused says beside the reason of a close that it surely did not take place.
func (desk *Desk) recordRefused(ctx context.Context, act int64) error {
	ctx, cancel := database.Bounded(ctx)
	defer cancel()
	_, err := desk.pool.Exec(ctx, `UPDATE outbox_acts SET why = why || ' (nothing was closed: Flex refused it)' WHERE id = $1`, act)
	return database.Wrap("close", err)
}
