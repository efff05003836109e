package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"flexworker/internal/database"
	"flexworker/internal/outbox/operator"
)

const (
	// viewers is how many people look at once.
	viewers = 20
	// lookEvery is how long a person looks at one screen.
	lookEvery = 3 * time.Second
	// besideSteady and besideBacklog are how many requests are claimed and carried out while people look.
	besideSteady, besideBacklog = 6000, 20_000
	// looksEach is how often each of them asks a question while it is measured.
	looksEach = 25
)

// A look is a question that people ask.
type look struct {
	name string
	ask  func(ctx context.Context, desk *operator.Desk) error
}

// page asks for a page of requests.
func page(q operator.Query) func(context.Context, *operator.Desk) error {
	return func(ctx context.Context, desk *operator.Desk) error {
		_, err := desk.Requests(ctx, q)
		return err
	}
}

// find looks for a text, which may depend on a number.
func find(text string, most int) func(context.Context, *operator.Desk) error {
	return func(ctx context.Context, desk *operator.Desk) error {
		if most > 0 {
			text := fmt.Sprintf(text, rand.IntN(most))
			_, err := desk.Find(ctx, text, "")
			return err
		}
		_, err := desk.Find(ctx, text, "")
		return err
	}
}

// looks are all questions of the page, those at the end without an index.
func (w *world) looks() []look {
	const day = 24 * time.Hour
	return []look{
		{"now", func(ctx context.Context, desk *operator.Desk) error { _, err := desk.Now(ctx); return err }},
		{"outcomes of an hour", func(ctx context.Context, desk *operator.Desk) error {
			_, err := desk.Outcomes(ctx, time.Hour)
			return err
		}},
		{"requests", page(operator.Query{})},
		{"requests of a random time", func(ctx context.Context, desk *operator.Desk) error {
			return page(operator.Query{Filter: operator.Filter{ReceivedBefore: time.Now().Add(-rand.N(28 * day))}})(ctx, desk)
		}},
		{"requests: pending", page(operator.Query{Filter: operator.Filter{State: "pending"}})},
		{"requests: pending, of a source", page(operator.Query{Filter: operator.Filter{State: "pending", Source: "bench"}})},
		{"requests: for a person", page(operator.Query{Filter: operator.Filter{ForPerson: true}})},
		{"requests: rejected", page(operator.Query{Filter: operator.Filter{State: "rejected"}})},
		{"requests: rejected, by status and code", page(operator.Query{Filter: operator.Filter{State: "rejected", HTTPStatus: 404, TwilioCode: 20404}})},
		{"requests: settled within a day", page(operator.Query{Filter: operator.Filter{Since: day}})},
		{"find: an id", find("bad-%d", 10_000)},
		{"find: a KD sid", find("KD%032x", 1<<30)},
		{"a request", func(ctx context.Context, desk *operator.Desk) error {
			_, err := desk.Show(ctx, fmt.Sprintf("bad-%d", 1+rand.IntN(10_000)))
			return err
		}},
		{"acts", func(ctx context.Context, desk *operator.Desk) error { _, _, err := desk.Acts(ctx, ""); return err }},
		{"malformed", func(ctx context.Context, desk *operator.Desk) error {
			_, _, err := desk.Malformed(ctx, "")
			return err
		}},
		{"search: rejected, a code that none has", page(operator.Query{Filter: operator.Filter{State: "rejected", TwilioCode: 1}})},
		{"search: pending, a source that none has", page(operator.Query{Filter: operator.Filter{State: "pending", Source: "nobody"}})},
		{"search: a source that none has", page(operator.Query{Filter: operator.Filter{Source: "nobody"}})},
		{"search: a WT sid that none has", find("WT00000000000000000000000000000000", 0)},
		{"search: an attribute that none has", find("order=nothing", 0)},
		{"search: an attribute whose value is in every request", find("order=sms", 0)},
	}
}

// measureReads asks all that people ask, twenty at once on the two connections that they have, beside settled rows and
// what is not finished; and holds a worker's claims against those while people look.
func (w *world) measureReads(ctx context.Context) ([]row, error) {
	dsn, err := w.filled(ctx, w.settled, w.notDue)
	if err != nil {
		return nil, err
	}
	return w.readsOf(ctx, dsn)
}

// readsOf is what measureReads measures, on a table that is filled.
func (w *world) readsOf(ctx context.Context, dsn string) ([]row, error) {
	if err := w.fillPeoples(ctx, dsn); err != nil {
		return nil, err
	}
	config, err := database.Parse(dsn)
	if err != nil {
		return nil, err
	}
	database.ForReads(config) // as the worker has it for the page
	config.MaxConns = 2
	config.ConnConfig.RuntimeParams["statement_timeout"], config.ConnConfig.RuntimeParams["application_name"] = "2s", "people"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	desk := operator.NewDesk(pool, operator.Caller{Right: operator.MayLook}, nil)

	var rows []row
	for _, l := range w.looks() {
		alone, err := ask(ctx, desk, l, 1)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		all, err := ask(ctx, desk, l, viewers)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
		p50 := row{name: l.name + ", ms, p50 of 20 at once", least: 200}
		p50.add(milliseconds(all, 0.5), fmt.Sprintf("one alone %.1f, p99 %.1f", milliseconds(alone, 0.5), milliseconds(alone, 0.99)))
		p99 := row{name: l.name + ", ms, p99 of 20 at once", least: 1000}
		p99.add(milliseconds(all, 0.99), fmt.Sprintf("of %d", len(all)))
		printRows(progress, []row{p50, p99})
		rows = append(rows, p50, p99)
	}
	beside, err := w.claimsBesidePeople(ctx, dsn, desk)
	return append(rows, beside...), err
}

func milliseconds(took []time.Duration, q float64) float64 { return quantile(took, q).Seconds() * 1e3 }

// ask lets so many people ask the same, one question after another, and says how long each took.
func ask(ctx context.Context, desk *operator.Desk, l look, people int) (took []time.Duration, err error) {
	var mu sync.Mutex
	var all sync.WaitGroup
	for range people {
		all.Go(func() {
			for range looksEach {
				began := time.Now()
				failed := l.ask(ctx, desk)
				mu.Lock()
				took, err = append(took, time.Since(began)), errors.Join(err, failed)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return took, err
}

// claimsBesidePeople holds the claims of a worker while people look against its claims while nobody does: at a steady pace,
// and while it burns down a backlog, which takes all that the machine has.
func (w *world) claimsBesidePeople(ctx context.Context, dsn string, desk *operator.Desk) ([]row, error) {
	steady := row{name: "claim p50 at 300 requests a second while 20 people look, each at another screen every 3 s, against none", least: 1.1}
	looking := row{name: "the same while a backlog is burnt down, with all that the machine has"}
	asking := row{name: "the same, and the people ask as fast as they are answered"}
	for range w.rounds {
		for _, load := range []struct {
			n     int
			apart time.Duration
			rows  []*row
		}{{besideSteady, time.Second / 300, []*row{&steady}}, {besideBacklog, 0, []*row{&looking, &asking}}} {
			quiet, err := w.claims(ctx, dsn, load.n, load.apart)
			if err != nil {
				return nil, err
			}
			for i, r := range load.rows {
				rest := lookEvery
				if i > 0 {
					rest = 0
				}
				beside, looks, err := w.claimsBeside(ctx, dsn, desk, load.n, load.apart, rest)
				if err != nil {
					return nil, err
				}
				r.add(milliseconds(beside, 0.5)/milliseconds(quiet, 0.5), fmt.Sprintf("%.2f/%.2f ms; p99 %.1f/%.1f ms; %d looks beside %d claims",
					milliseconds(beside, 0.5), milliseconds(quiet, 0.5), milliseconds(beside, 0.99), milliseconds(quiet, 0.99), looks, len(beside)))
			}
		}
	}
	return []row{steady, looking, asking}, nil
}

// claimsBeside are the times of the claims of n requests while people look, each at a random screen, with a rest.
func (w *world) claimsBeside(ctx context.Context, dsn string, desk *operator.Desk, n int, apart, rest time.Duration) (took []time.Duration, looks int, err error) {
	watching, end := context.WithCancel(ctx)
	var people sync.WaitGroup
	var mu sync.Mutex
	var failed error
	all := w.looks()
	for range viewers {
		people.Go(func() {
			for pause(watching, time.Duration(rand.Float64()*2*float64(rest))) {
				err := all[rand.IntN(len(all))].ask(watching, desk)
				mu.Lock()
				if looks++; watching.Err() == nil && !errors.Is(err, operator.ErrTooSlow) {
					failed = errors.Join(failed, err)
				}
				mu.Unlock()
			}
		})
	}
	took, err = w.claims(ctx, dsn, n, apart)
	end()
	people.Wait()
	return took, looks, errors.Join(err, failed)
}

// fillPeoples adds what people look at to a large table: one in a hundred settled rows has failed; in the last hour ten
// thousand did; some are tried again, and some wait for a person. Acts, malformed messages and minutes are those of a
// busy month.
func (w *world) fillPeoples(ctx context.Context, dsn string) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // nothing is left to say
	_, err = conn.Exec(ctx, `
		UPDATE outbox o SET state = (ARRAY['rejected', 'rejected', 'abandoned', 'expired'])[1 + n % 4], interaction_sid = NULL, resolved_by = NULL,
		       error_kind = (ARRAY['http_400', 'http_404', 'attempts_used_up', 'expired'])[1 + n % 4], http_status = (ARRAY[400, 404, 503, NULL])[1 + n % 4],
		       twilio_code = (ARRAY[20001, 20404, NULL, NULL])[1 + n % 4]
		  FROM (SELECT id AS of, (id / 100)::integer AS n FROM (SELECT generate_series(100, (SELECT max(id) FROM outbox), 100) AS id) AS each) AS failing
		 WHERE o.id = of AND o.state = 'created';
		INSERT INTO outbox (request_id, source, state, request, attempt, error_kind, error_message, http_status, twilio_code, stream_sequence, stream_time, received_at, settled_at, published_at)
		SELECT 'bad-' || n, 'source-' || n % 40, 'rejected', (SELECT request FROM outbox ORDER BY id LIMIT 1), 1, 'http_400', 'no such workflow', 400, 20001 + n % 5, n, at, at, at, at
		  FROM generate_series(1, 10000) AS n, LATERAL (SELECT now() - n * interval '300 ms' AS at) AS t;
		INSERT INTO outbox (request_id, source, state, request, attempt, attempt_began_at, error_kind, http_status, due_at, stream_sequence, stream_time)
		SELECT 'again-' || n, 'bench', 'pending', (SELECT request FROM outbox ORDER BY id LIMIT 1), 1, now(), 'http_503', 503, now() + interval '2 days', n, now()
		  FROM generate_series(1, 5000) AS n;
		INSERT INTO outbox (request_id, source, state, request, attempt, attempt_began_at, uncertain_since, for_person_since, announced_at, error_kind, stream_sequence, stream_time)
		SELECT 'ask-' || n, 'bench', 'uncertain', (SELECT request FROM outbox ORDER BY id LIMIT 1), 1, now(), now(), now() - n * interval '1 s', now(), 'timeout', n, now()
		  FROM generate_series(1, 2000) AS n;
		INSERT INTO outbox_acts (at, who, why, act, request_id, was)
		SELECT now() - n * interval '10 s', 'ann@desk', 'the workflow was mended', CASE WHEN n % 1000 = 0 THEN 'hold' WHEN n % 1000 = 999 THEN 'release' ELSE 'retry' END, 'bad-' || n, 'rejected'
		  FROM generate_series(200000, 1, -1) AS n;
		INSERT INTO outbox_malformed (kind, stream, stream_sequence, stream_time, subject, source, headers, raw, error, published_at)
		SELECT 'malformed', 's', n, now(), 'interactions.requests.crm', 'crm', '{}', convert_to(repeat('x', 1000), 'UTF8'), 'not JSON', now() FROM generate_series(1, 20000) AS n;
		INSERT INTO outbox_minutes SELECT date_trunc('minute', now()) - m * interval '1 minute', 'source-' || s, outcome, 10
		  FROM generate_series(1, 10080) AS m, generate_series(1, 20) AS s, unnest(ARRAY['created', 'rejected']) AS outcome`)
	if err != nil {
		return err
	}
	_, err = conn.Exec(ctx, "VACUUM (ANALYZE) outbox, outbox_acts, outbox_malformed, outbox_minutes")
	return err
}
