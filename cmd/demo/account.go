package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// account prints the results and the table, and fails when something is not as
// it was to be.
func (w *world) account(ctx context.Context, cast []message, answers []answer) error {
	fmt.Println("\nThe results, as the senders receive them:")
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  subject\trequest\tinteraction\trouting\tattempts\tby\terror")
	for _, a := range answers {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%d\t%s\t%s\n", a.Subject, dash(a.RequestID), dash(a.InteractionSID), dash(a.Routing.AssignmentStatus), a.Attempts, dash(a.ResolvedBy), dash(short(a.ErrorText)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Println("\nThe table, as operators see it:")
	if err := w.table(ctx); err != nil {
		return err
	}
	return w.check(cast, answers)
}

func (w *world) table(ctx context.Context) error {
	rows, err := w.pool.Query(ctx, `
		SELECT request_id, state, attempt, uncounted, coalesce(interaction_sid, '-'), coalesce(error_kind, '-'),
		       coalesce(to_char(settled_at - received_at, 'SS.MS'), '-') FROM outbox ORDER BY id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  request_id\tstate\tattempt\tuncounted\tinteraction_sid\terror_kind\tseconds")
	for rows.Next() {
		var id, state, sid, kind, took string
		var attempt, uncounted int
		if err := rows.Scan(&id, &state, &attempt, &uncounted, &sid, &kind, &took); err != nil {
			return err
		}
		fmt.Fprintf(t, "  %s\t%s\t%d\t%d\t%s\t%s\t%s\n", id, state, attempt, uncounted, sid, kind, took)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return t.Flush()
}

// check holds every answer against what was to come, and the workers against
// the ledger of the endpoint.
func (w *world) check(cast []message, answers []answer) error {
	var faults []string
	for _, m := range cast {
		subject := "interactions.results." + m.want + "." + m.source
		if !slices.ContainsFunc(answers, func(a answer) bool {
			return a.Subject == subject && (a.RequestID == m.name || m.want == "malformed")
		}) {
			faults = append(faults, fmt.Sprintf("%s was to be answered on %s", m.name, subject))
		}
	}
	created := map[string]bool{}
	for _, a := range answers {
		if a.InteractionSID != "" {
			created[a.InteractionSID] = true
		}
	}
	if w.flex != nil {
		if n := len(w.flex.Ledger()); n != len(created) {
			faults = append(faults, fmt.Sprintf("Flex created %d interactions, the results name %d", n, len(created)))
		}
		for _, key := range w.flex.Duplicates() {
			faults = append(faults, "created twice: "+key)
		}
		faults = append(faults, w.flex.Violations()...)
	}
	if len(faults) > 0 {
		return fmt.Errorf("the account does not balance:\n  %s", strings.Join(faults, "\n  "))
	}
	fmt.Printf("\nThe account balances: %d messages, %d answers, %d interactions, none twice.\n", len(cast), len(answers), len(created))
	return nil
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func short(s string) string {
	r := []rune(s)
	if len(r) > 90 {
		return string(r[:90]) + "..."
	}
	return s
}
