package setup

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"flexworker/internal/batch"
	"flexworker/internal/crash"
	"flexworker/internal/database"
	"flexworker/internal/flex"
	"flexworker/internal/loop"
	"flexworker/internal/trouble"
)

const (
	// idleRest is the rest where no look is due, and after a round that failed.
	idleRest = time.Second
	// AtOnce is how many looks one replica makes at a time, where CONFIRM_RATE allows so many.
	AtOnce = 64
	// ReadLimit is the longest that one read may take.
	ReadLimit = 5 * time.Second
	// gather is how long a word waits for others that are published with it. A word is no hurry: the first look is made after 2 s.
	gather = 100 * time.Millisecond
	// stopLimit is how long a look may still take when the worker is told to stop.
	stopLimit = 2 * time.Second
	// limitedFor is the wait after a 429 that names no time.
	limitedFor = 5 * time.Second
	// limitedMost is the age of a creation from which on a look that Twilio has put off counts as one that could not be read.
	limitedMost = time.Hour
	// RefusedMost is how many requests in a row Flex must have refused to show until confirmation turns itself off.
	RefusedMost = 5
)

// A Confirmer finds the word of each created request. It owns no row: what it looks at is postponed past the look's limit.
type Confirmer struct {
	Setups *Setups
	// Flex has connections of its own, so that no create waits for one.
	Flex *flex.Client
	Rate float64 // CONFIRM_RATE: reads a second of the whole fleet; above 0
	// MayRead is asked before each round; nil: it may.
	MayRead func() bool
	// Told is raised when a word waits to be published.
	Told loop.Signal
	Log  *slog.Logger

	Counters Counters

	telling atomic.Bool // Told is raised in a moment
	off     atomic.Bool
	knownAt atomic.Int64 // when off was read, in unix nanoseconds
	rounds  trouble.Trouble
}

// Counters count the words that this process has found since it started, in the order of Words. The zero value is ready.
type Counters [len(Words)]atomic.Int64

func (c *Counters) add(w Word, n int) {
	for i := range Words {
		if Words[i] == w {
			c[i].Add(int64(n))
		}
	}
}

// Off says whether confirmation has turned itself off for the fleet, and when that was read; zero: never.
func (c *Confirmer) Off() (off bool, at time.Time) {
	if ns := c.knownAt.Load(); ns != 0 {
		at = time.Unix(0, ns)
	}
	return c.off.Load(), at
}

// Run looks until ctx ends, and until the looks that it has begun have ended. A look that takes long holds up no other, as long as
// there are fewer of these than AtOnce.
func (c *Confirmer) Run(ctx context.Context) {
	longer, end := loop.Outlive(ctx, stopLimit)
	defer end()
	looks := c.newLooks()
	defer looks.all.Wait()
	for ctx.Err() == nil {
		if c.MayRead != nil && !c.MayRead() {
			loop.Rest(ctx, loop.Jittered(idleRest), nil)
			continue
		}
		rest, err := c.round(ctx, longer, looks)
		c.tell(ctx, err)
		loop.Rest(ctx, loop.Jittered(rest), nil)
	}
}

// looks are those that are under way. What they show is stored for all together that end while one write is under way: so it takes one
// of the connections that all loops share, and one wait for the disk.
type looks struct {
	all    sync.WaitGroup
	places chan struct{} // has an element for each
	noting chan struct{} // has an element while one notes what it learnt of Flex, with another of these connections
	stores *batch.Group[Finding, bool]
}

func (c *Confirmer) newLooks() *looks {
	l := &looks{places: make(chan struct{}, AtOnce), noting: make(chan struct{}, 1), stores: batch.New(AtOnce, c.Setups.Store)}
	l.stores.Split = database.IsDataError
	return l
}

// tell tells of a round or a look that failed, or of one that went well.
func (c *Confirmer) tell(ctx context.Context, err error) {
	if ctx.Err() == nil {
		c.rounds.Tell(c.Log, "it cannot be seen whether channels were set up; trying again", err)
	}
}

// round takes what is due and begins to look at it; the looks may go on until longer ends. It says how long to rest until the next round.
func (c *Confirmer) round(ctx, longer context.Context, looks *looks) (rest time.Duration, err error) {
	t, err := c.Setups.Take(ctx, c.Rate)
	if err != nil {
		return idleRest, err
	}
	taken := time.Now()
	c.off.Store(t.Off)
	c.knownAt.Store(taken.UnixNano())
	if t.Off && len(t.Due) == 0 {
		return idleRest, c.giveUp(ctx)
	}
	if len(t.Due) == 0 {
		return min(cmp.Or(t.Wait, idleRest), idleRest), nil
	}
	crash.At("setup_taken")
	for _, d := range t.Due {
		looks.places <- struct{}{}
		looks.all.Go(func() {
			defer func() { <-looks.places }()
			c.tell(longer, c.lookAt(longer, looks, d, taken))
		})
	}
	return t.Wait - time.Since(taken), nil
}

// giveUp gives the word unconfirmed while Flex refuses the reads.
func (c *Confirmer) giveUp(ctx context.Context) error {
	n, err := c.Setups.GiveUp(ctx)
	if n > 0 {
		c.Counters.add(Unconfirmed, n)
		c.Log.Info("set-ups are unconfirmed without a look: Flex refuses to show them", "requests", n)
		c.Told.Raise()
	}
	return err
}

// lookAt makes one look at what was taken then, and keeps what it shows. A crash at any point costs the look: it is due again. So is
// one for which no time is left.
func (c *Confirmer) lookAt(ctx context.Context, looks *looks, d Due, taken time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, taken.Add(LookLimit-ReadLimit))
	defer cancel()
	if ctx.Err() != nil {
		return nil // it waited too long for its turn
	}
	d.Age += time.Since(taken)
	began := time.Now()
	l := c.look(ctx, d)
	if ctx.Err() != nil {
		return nil // cut short: what was seen says nothing
	}
	crash.At("setup_seen")
	return c.keep(ctx, looks, d, l, time.Since(began))
}

// keep stores what a look has shown, which took so long.
func (c *Confirmer) keep(ctx context.Context, looks *looks, d Due, l Look, took time.Duration) error {
	if counts, err := c.learn(ctx, looks, d, l); err != nil || !counts {
		return err
	}
	d.Age += took
	v, next := l.After(d.Checks+1, d.Age)
	c.note(d, l, v, took)
	stored, err := looks.stores.Do(ctx, Finding{d, l, v, next})
	crash.At("setup_stored")
	if stored && v.Word != "" {
		c.Counters.add(v.Word, 1)
		c.tellOfWords()
	}
	return err
}

// learn notes what a look says of Flex: that it puts reads off, refuses them or answers. One does so at a time, so that a table that
// somebody holds takes no connection from the other loops. counts is false where the look is made again.
func (c *Confirmer) learn(ctx context.Context, looks *looks, d Due, l Look) (counts bool, err error) {
	select {
	case looks.noting <- struct{}{}:
	case <-ctx.Done():
		return false, nil
	}
	defer func() { <-looks.noting }()
	if wait, limited := l.limited(); limited && d.Age < limitedMost {
		return false, c.Setups.Limit(ctx, d, cmp.Or(wait, limitedFor))
	}
	return c.heed(ctx, d, l)
}

// tellOfWords raises Told in a moment, for all words that are found until then: they are published together. Where this
// process ends before, the poll of any replica finds them.
func (c *Confirmer) tellOfWords() {
	if c.telling.CompareAndSwap(false, true) {
		time.AfterFunc(gather, func() {
			c.telling.Store(false)
			c.Told.Raise()
		})
	}
}

// look reads the channel, its participants where the request named some, and the task.
func (c *Confirmer) look(ctx context.Context, d Due) (l Look) {
	l.Named, l.HasTask = d.Named, d.Task != ""
	channels, err := c.Flex.Channels(ctx, d.InteractionSID)
	l.ChannelErr = err
	for i := range channels {
		if i == 0 || channels[i].SID == d.Channel {
			l.Channel = channels[i]
		}
	}
	if l.Channel.Status == "failed" || err != nil {
		return l // the one says all; the other is asked again
	}
	if d.Named && wasSetUp(l.Channel.Status) {
		l.Customer, l.CustomerErr = c.Flex.HasCustomer(ctx, d.InteractionSID, l.Channel.SID)
	}
	if l.HasTask && l.CustomerErr == nil {
		if l.Task, err = c.Flex.Task(ctx, d.Workspace, d.Task); err != nil && !gone(err) {
			l.TaskErr = err
		}
	}
	return l
}

// heed notes whether Flex lets set-ups be read. A request is counted once, at its first look. counts is false where the refusal
// is not about set-ups: Flex does not take this replica's credentials at all, so the look is made again.
func (c *Confirmer) heed(ctx context.Context, d Due, l Look) (counts bool, err error) {
	why := l.refused()
	off, _ := c.Off()
	switch {
	case l.ChannelErr == nil && l.CustomerErr == nil:
		was, err := c.Setups.Answered(ctx)
		if was {
			c.off.Store(false)
			c.Log.Info("Flex shows again whether channels were set up: confirmation is on")
		}
		return true, err
	case why == nil || d.Checks > 0 && !off:
		return true, nil
	}
	if o := c.Flex.Check(ctx); o.Kind != flex.Rejected {
		return false, nil
	}
	inARow, err := c.Setups.Refused(ctx)
	if err != nil || inARow < RefusedMost {
		return true, err
	}
	was, err := c.Setups.TurnOff(ctx, why.Error())
	if err == nil && was {
		c.off.Store(true)
		c.Log.Error("Flex refuses to show whether channels were set up: confirmation turns itself off; one read an hour tries again",
			"setting", "CONFIRM", "requests_in_a_row", inARow, "error", why)
	}
	return true, err
}

// note writes the one log line of a look.
func (c *Confirmer) note(d Due, l Look, v Verdict, took time.Duration) {
	level := slog.LevelInfo
	if v.Word == "" {
		level = slog.LevelDebug
	}
	c.Log.Log(context.Background(), level, "setup", "request_id", d.RequestID, "interaction_sid", d.InteractionSID, "check", d.Checks+1,
		"channel_status", l.Channel.Status, "error_code", l.Channel.ErrorCode, "task_status", l.Task.Status, "word", string(v.Word),
		"why", v.Why, "age_ms", d.Age.Milliseconds(), "took_ms", took.Milliseconds())
}
