package operator_test

import (
	"crypto/sha256"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"flexworker/internal/outbox/operator"
	"flexworker/internal/testing/pgtest"
)

var asked, askedElse = operator.Asked{Digest: sha256.Sum256([]byte("retry r-1"))}, operator.Asked{Digest: sha256.Sum256([]byte("cancel r-1"))}

// once calls Once with an act that answers text, and says whether it was called.
func (s *rig) once(t testing.TB, key string, of operator.Asked, text string, changed bool) (answer string, acted bool, err error) {
	t.Helper()
	got, err := s.desk.Once(t.Context(), key, of, func() ([]byte, bool) {
		acted = true
		return []byte(text), changed
	})
	return string(got), acted, err
}

func TestOnce(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	if answer, acted, err := s.once(t, "k", asked, "first", true); answer != "first" || !acted || err != nil {
		t.Fatal(answer, acted, err)
	}
	if answer, acted, err := s.once(t, "k", asked, "second", true); answer != "first" || acted || err != nil {
		t.Error("a repeat", answer, acted, err)
	}
	if answer, acted, err := s.once(t, "k", askedElse, "second", true); answer != "" || acted || !errors.Is(err, operator.ErrKeyReused) {
		t.Error("another request", answer, acted, err)
	}
	if answer, acted, err := s.once(t, "K", asked, "other", true); answer != "other" || !acted || err != nil {
		t.Error("another key", answer, acted, err)
	}
	looks := &rig{desk: s.desk.For(operator.Caller{Name: "bob", Right: operator.MayLook}), pool: s.pool}
	for _, key := range []string{"k", "new"} {
		if answer, acted, err := looks.once(t, key, asked, "x", true); answer != "" || acted || !errors.Is(err, operator.ErrForbidden) {
			t.Error("who may look", key, answer, acted, err)
		}
	}
	if answer, acted, err := s.once(t, "free", asked, "refused", false); answer != "refused" || !acted || err != nil {
		t.Error(answer, acted, err)
	}
	if answer, acted, err := s.once(t, "free", askedElse, "done", true); answer != "done" || !acted || err != nil {
		t.Error("a key whose act changed nothing", answer, acted, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_idempotency_keys SET kept_until = kept_until - interval '24 hours' WHERE key = 'k'`)
	if answer, acted, err := s.once(t, "k", asked, "a day later", true); answer != "a day later" || !acted || err != nil {
		t.Error(answer, acted, err)
	}
	if n := pgtest.One[int](t, s.pool, `SELECT count(*) FROM outbox_idempotency_keys`); n != 3 {
		t.Errorf("%d keys are kept", n)
	}
}

// TestOnceAtOnce: of many at the same moment one acts.
func TestOnceAtOnce(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	var acts atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			answer, err := s.desk.Once(t.Context(), "k", asked, func() ([]byte, bool) {
				acts.Add(1)
				return []byte("first"), true
			})
			if string(answer) != "first" && !errors.Is(err, operator.ErrUnderWay) {
				t.Errorf("%s, %v", answer, err)
			}
		})
	}
	all.Wait()
	if n := acts.Load(); n != 1 {
		t.Errorf("%d acted", n)
	}
}

// TestOnceInterrupted: whose process died between act and answer is told so, and the act is never done again.
func TestOnceInterrupted(t *testing.T) {
	t.Parallel()
	s := newRig(t)
	func() {
		defer func() { _ = recover() }() // the process dies
		_, err := s.desk.Once(t.Context(), "dies", asked, func() ([]byte, bool) { panic("the process dies") })
		t.Error("it lives", err)
	}()
	if answer, acted, err := s.once(t, "dies", asked, "second", true); acted || !errors.Is(err, operator.ErrUnderWay) {
		t.Error(answer, acted, err)
	}
	pgtest.Exec(t, s.pool, `UPDATE outbox_idempotency_keys SET begun_at = begun_at - interval '61 seconds'`)
	for range 2 {
		if answer, acted, err := s.once(t, "dies", asked, "second", true); acted || !errors.Is(err, operator.ErrInterrupted) {
			t.Error(answer, acted, err)
		}
	}
}
