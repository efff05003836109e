package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/spf13/cobra"

	"flexworker/internal/outbox"
)

// office is what the operators' verbs share: the table, and how to answer.
type office struct {
	cmd    *cobra.Command
	store  *outbox.Store
	asJSON bool
}

// operatorCommands are the verbs for people. Each is one call of the outbox.
func operatorCommands() []*cobra.Command {
	return []*cobra.Command{listCommand(), showCommand(), explainCommand(), auditCommand(), fleetCommand(), rateCommand(),
		bulkCommand("retry", "Send settled requests that were not created once more, with a fresh count of attempts", (*outbox.Store).Retry),
		bulkCommand("cancel", "End pending requests unsent", (*outbox.Store).Cancel),
		bulkCommand("republish", "Publish results once more, under the message ids they have", (*outbox.Store).Republish),
		resolveCommand(), gateCommand("hold", "Stop the whole fleet from sending until it is released", (*outbox.Store).Hold),
		gateCommand("release", "Let the fleet send again, whoever stopped it", (*outbox.Store).Release)}
}

// verb gives a command the flag --json and opens the table for it.
func verb(cmd *cobra.Command, do func(ctx context.Context, o office, args []string) error) *cobra.Command {
	asJSON := cmd.Flags().Bool("json", false, "answer in JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dsn, err := loadSecret("DATABASE_URL")
		if err == nil && dsn.Value() == "" {
			err = errors.New("DATABASE_URL is required, such as postgres://worker@db/worker (or DATABASE_URL_FILE)")
		}
		if err != nil {
			return err
		}
		pool, err := openPool(cmd.Context(), dsn, 2, peoplesTimeout, nil)
		if err != nil {
			return err
		}
		defer pool.Close()
		err = do(cmd.Context(), office{cmd, outbox.NewStore(pool, workerName(), time.Minute), *asJSON}, args)
		if away := (*pgconn.ConnectError)(nil); errors.As(err, &away) {
			return fmt.Errorf("DATABASE_URL: %w", err)
		}
		return err
	}
	return cmd
}

// answer prints v as JSON, or what text prints.
func (o office) answer(v any, text func() error) error {
	if !o.asJSON {
		return text()
	}
	e := json.NewEncoder(o.cmd.OutOrStdout())
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// filterFlags are how requests are chosen.
func filterFlags(cmd *cobra.Command, f *outbox.Filter) {
	cmd.Flags().StringVar((*string)(&f.State), "state", "", "only those in this state")
	cmd.Flags().StringVar(&f.Source, "source", "", "only those of this source")
	cmd.Flags().StringVar(&f.ErrorKind, "error-kind", "", "only those with this reason, such as http_400")
	cmd.Flags().DurationVar(&f.OlderThan, "older-than", 0, "only those received longer ago than this")
	cmd.Flags().DurationVar(&f.Since, "settled-within", 0, "only those settled within this time before now")
	cmd.Flags().IntVar(&f.Limit, "limit", 0, "at most so many; list shows 100 unless told otherwise")
}

// filterFault names what would choose nothing, or everything, silently.
func filterFault(f outbox.Filter) error {
	switch {
	case f.Limit < 0:
		return errors.New("--limit must not be negative")
	case f.OlderThan < 0:
		return errors.New("--older-than must not be negative")
	case f.Since < 0:
		return errors.New("--settled-within must not be negative")
	}
	if f.State == "" {
		return nil
	}
	names := make([]string, len(outbox.States))
	for i, s := range outbox.States {
		if names[i] = string(s); s == f.State {
			return nil
		}
	}
	return fmt.Errorf("--state %s: the states are %s", f.State, strings.Join(names, ", "))
}

func listCommand() *cobra.Command {
	var f outbox.Filter
	cmd := &cobra.Command{Use: "list", Short: "List requests, the oldest first", Args: cobra.NoArgs}
	filterFlags(cmd, &f)
	return verb(cmd, func(ctx context.Context, o office, _ []string) error {
		if err := filterFault(f); err != nil {
			return err
		}
		rows, err := o.store.List(ctx, f)
		if err != nil {
			return err
		}
		if most := cmp.Or(f.Limit, outbox.ListMost); len(rows) == most {
			fmt.Fprintf(o.cmd.ErrOrStderr(), "the %d oldest are shown, there may be more: --limit shows them, the other flags choose\n", most)
		}
		return o.answer(rows, func() error {
			w := tabwriter.NewWriter(o.cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "REQUEST_ID\tSOURCE\tSTATE\tATTEMPT\tINTERACTION\tREASON\tRECEIVED")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", r.RequestID, r.Source, r.State, r.Attempt,
					orDash(r.InteractionSID), orDash(r.ErrorKind), r.ReceivedAt.UTC().Format(time.RFC3339))
			}
			return w.Flush()
		})
	})
}

func orDash(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

func showCommand() *cobra.Command {
	return verb(&cobra.Command{Use: "show ID", Short: "Show all that is known of a request, its attempts and lookups", Args: cobra.ExactArgs(1)},
		func(ctx context.Context, o office, args []string) error {
			d, err := o.detail(ctx, args[0])
			if err != nil {
				return err
			}
			o.asJSON = true // there is no better form for all of it
			return o.answer(d, nil)
		})
}

func (o office) detail(ctx context.Context, id string) (outbox.Detail, error) {
	d, err := o.store.Show(ctx, id)
	if errors.Is(err, outbox.ErrUnknown) {
		return d, fmt.Errorf("no request has the id %q; `worker list` shows which there are, and outbox_malformed has what could not become one", id)
	}
	return d, err
}

func explainCommand() *cobra.Command {
	return verb(&cobra.Command{Use: "explain ID", Short: "Say in prose what happened to a request, why it is where it is, and what comes next", Args: cobra.ExactArgs(1)},
		func(ctx context.Context, o office, args []string) error {
			d, err := o.detail(ctx, args[0])
			if err != nil {
				return err
			}
			gate, err := o.store.Gate(ctx)
			if err != nil {
				return err
			}
			text := outbox.Explain(d, gate)
			return o.answer(map[string]string{"request_id": d.RequestID, "explanation": text}, func() error {
				_, err := fmt.Fprint(o.cmd.OutOrStdout(), text)
				return err
			})
		})
}
