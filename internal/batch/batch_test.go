package batch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// slowWrite is a write that a test lets go on, batch by batch.
type slowWrite struct {
	mu      sync.Mutex
	batches [][]int
	gate    chan error // one for each write
	refuse  func([]int) error
}

func newSlowWrite() *slowWrite { return &slowWrite{gate: make(chan error)} }

func (w *slowWrite) write(_ context.Context, items []int) ([]string, error) {
	w.mu.Lock()
	w.batches = append(w.batches, slices.Clone(items))
	w.mu.Unlock()
	if w.gate != nil {
		if err := <-w.gate; err != nil {
			return nil, err
		}
	}
	if w.refuse != nil {
		if err := w.refuse(items); err != nil {
			return nil, err
		}
	}
	answers := make([]string, len(items))
	for i, item := range items {
		answers[i] = fmt.Sprint(item)
	}
	return answers, nil
}

var errData = errors.New("one item is at fault")

// splitting is a group whose batches are halved at errData.
func splitting[R any](limit int, write func(context.Context, []int) ([]R, error)) *Group[int, R] {
	g := New(limit, write)
	g.Split = func(err error) bool { return errors.Is(err, errData) }
	return g
}

// call starts Do for each item, in this order, and collects what came of it.
func call(t *testing.T, g *Group[int, string], errs map[int]error, items ...int) *sync.WaitGroup {
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, item := range items {
		all.Go(func() {
			got, err := g.Do(context.Background(), item)
			if err == nil && got != fmt.Sprint(item) {
				t.Errorf("%d was answered with %q", item, got)
			}
			mu.Lock()
			defer mu.Unlock()
			errs[item] = err
		})
		synctest.Wait() // in the order of the items
	}
	return &all
}

func sameBatches(t *testing.T, got, want [][]int) {
	t.Helper()
	if !slices.EqualFunc(got, want, slices.Equal) {
		t.Errorf("wrote %v, want %v", got, want)
	}
}

// TestGroupGathers: an idle group writes at once; what comes meanwhile is the
// next write, in order, and no more than max of it.
func TestGroupGathers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWrite()
		errs := map[int]error{}
		all := call(t, splitting(3, w.write), errs, 1, 2, 3, 4, 5)
		sameBatches(t, w.batches, [][]int{{1}}) // at once, alone
		for range 3 {
			w.gate <- nil
			synctest.Wait()
		}
		all.Wait()
		sameBatches(t, w.batches, [][]int{{1}, {2, 3, 4}, {5}})
		for item, err := range errs {
			if err != nil {
				t.Errorf("%d: %v", item, err)
			}
		}
	})
}

// TestGroupIsIdleAgain: after a write nothing is left over.
func TestGroupIsIdleAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &slowWrite{}
		g := splitting(3, w.write)
		for i := range 3 {
			call(t, g, map[int]error{}, i).Wait()
		}
		sameBatches(t, w.batches, [][]int{{0}, {1}, {2}})
		if g.writing || len(g.waiting) > 0 {
			t.Errorf("writing %t, %d wait", g.writing, len(g.waiting))
		}
	})
}

// TestGroupOneBadItem: what Postgres refuses of one item is that item's alone.
func TestGroupOneBadItem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWrite()
		g := splitting(100, func(ctx context.Context, items []int) ([]string, error) {
			if slices.Contains(items, 6) {
				w.batches = append(w.batches, slices.Clone(items))
				return nil, fmt.Errorf("wrapped: %w", errData)
			}
			return w.write(ctx, items)
		})
		errs := map[int]error{}
		all := call(t, g, errs, 1, 2, 3, 4, 5, 6, 7, 8, 9)
		close(w.gate)
		all.Wait()
		for item, err := range errs {
			if want := item == 6; errors.Is(err, errData) != want || (err != nil) != want {
				t.Errorf("%d: %v", item, err)
			}
		}
		sameBatches(t, w.batches, [][]int{{1}, {2, 3, 4, 5, 6, 7, 8, 9}, {2, 3, 4, 5}, {6, 7, 8, 9}, {6, 7}, {6}, {7}, {8, 9}})
	})
}

// TestGroupAttended: who attends decides when and how many are written; the rest are the next.
func TestGroupAttended(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &slowWrite{}
		g := splitting(3, func(context.Context, []int) ([]string, error) {
			t.Error("a caller writes")
			return nil, errData
		})
		arrived := g.Attend()
		all := call(t, g, map[int]error{}, 1, 2, 3, 4, 5)
		sameBatches(t, w.batches, nil)
		<-arrived
		for _, n := range []int{1, 100, 100} {
			batch := g.Take(n)
			if batch.Len() == 0 {
				t.Error("nothing was taken")
			}
			batch.Write(t.Context(), w.write)
		}
		all.Wait()
		if batch := g.Take(1); batch.Len() != 0 {
			t.Error("something is left")
		}
		sameBatches(t, w.batches, [][]int{{1}, {2, 3, 4}, {5}})
	})
}

// TestGroupAttendedOneBadItem: a batch that was taken is halved as the group's own.
func TestGroupAttendedOneBadItem(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &slowWrite{refuse: func(items []int) error {
			if slices.Contains(items, 3) {
				return errData
			}
			return nil
		}}
		g := splitting(100, w.write)
		g.Attend()
		errs := map[int]error{}
		all := call(t, g, errs, 1, 2, 3, 4)
		g.Take(4).Write(t.Context(), w.write)
		all.Wait()
		sameBatches(t, w.batches, [][]int{{1, 2, 3, 4}, {1, 2}, {3, 4}, {3}, {4}})
		for item, err := range errs {
			if errors.Is(err, errData) != (item == 3) {
				t.Errorf("%d: %v", item, err)
			}
		}
	})
}

// TestGroupAttendAndLeave: nobody is forgotten who waits when somebody comes to attend, or goes.
func TestGroupAttendAndLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWrite()
		g := splitting(3, w.write)
		first := call(t, g, map[int]error{}, 1, 2, 3) // 1 is being written
		arrived := g.Attend()
		if batch := g.Take(1); batch.Len() == 1 { // beside it
			go batch.Write(t.Context(), w.write)
		}
		w.gate <- nil
		w.gate <- nil
		synctest.Wait()
		<-arrived // 3 was left by who wrote 1
		more := call(t, g, map[int]error{}, 4, 5)
		g.Leave()
		w.gate <- nil
		first.Wait()
		more.Wait()
		last := call(t, g, map[int]error{}, 6) // as if nobody had ever attended
		w.gate <- nil
		last.Wait()
		sameBatches(t, w.batches, [][]int{{1}, {2}, {3, 4, 5}, {6}})
	})
}

// TestGroupTakenFromTheLeader: whoever attends takes the item of a caller that was to write it and had not begun. That caller is
// answered by the write that has its item, and not before.
func TestGroupTakenFromTheLeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWrite()
		g := splitting(3, w.write)
		g.Turn = NewTurn(time.Hour)
		end := g.Turn.Take() // the caller has to wait for its turn
		errs := map[int]error{}
		first := call(t, g, errs, 1)
		synctest.Wait()
		g.Attend()
		batch := g.Take(3)
		end()
		synctest.Wait() // the caller has had its turn, and nothing to write
		failed := errors.New("connection refused")
		go batch.Write(t.Context(), w.write)
		w.gate <- failed
		first.Wait()
		if sameBatches(t, w.batches, [][]int{{1}}); !errors.Is(errs[1], failed) {
			t.Errorf("it was answered %v, want what its write said: %v", errs[1], failed)
		}
	})
}

// TestGroupAway: any other error is everybody's, and the batch is not repeated.
func TestGroupAway(t *testing.T) {
	t.Parallel()
	for _, gone := range []error{errors.New("connection refused"), context.DeadlineExceeded} {
		synctest.Test(t, func(t *testing.T) {
			w := newSlowWrite()
			errs := map[int]error{}
			all := call(t, splitting(100, w.write), errs, 1, 2, 3)
			w.gate <- nil
			w.gate <- gone
			all.Wait()
			sameBatches(t, w.batches, [][]int{{1}, {2, 3}})
			if errs[1] != nil || !errors.Is(errs[2], gone) || !errors.Is(errs[3], gone) {
				t.Errorf("%v", errs)
			}
		})
	}
}

// TestGroupCallerGone: a caller that was cut still gets its own answer, and its
// companions theirs.
func TestGroupCallerGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gone, cancel := context.WithCancel(context.Background())
		release := make(chan struct{})
		g := splitting(100, func(ctx context.Context, items []int) ([]string, error) {
			<-release
			return make([]string, len(items)), ctx.Err()
		})
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() {
				if _, err := g.Do(gone, 1); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		close(release)
		all.Wait()
	})
}

// TestGroupCrowd: a thousand callers, each answered with its own, none twice,
// none forgotten, never more than max.
func TestGroupCrowd(t *testing.T) {
	t.Parallel()
	const callers, most = 1000, 7
	w := &slowWrite{refuse: func(items []int) error {
		if slices.ContainsFunc(items, func(i int) bool { return i%101 == 0 }) {
			return errData
		}
		return nil
	}}
	written := map[int]int{}
	g := splitting(most, func(ctx context.Context, items []int) ([]string, error) {
		if len(items) > most {
			t.Errorf("a batch of %d", len(items))
		}
		answers, err := w.write(ctx, items)
		if err == nil {
			for _, i := range items {
				written[i]++ // unguarded: there is one write at a time
			}
		}
		return answers, err
	})
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			got, err := g.Do(t.Context(), i)
			if bad := i%101 == 0; (err != nil) != bad || !bad && got != fmt.Sprint(i) {
				t.Errorf("%d: %q, %v", i, got, err)
			}
		})
	}
	all.Wait()
	for i := range callers {
		if want := min(i%101, 1); written[i] != want {
			t.Errorf("%d was written %d times, want %d", i, written[i], want)
		}
	}
}

// TestGroupSize: a write has no more bytes than it may, but an item that has more by
// itself is written all the same, alone.
func TestGroupSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWrite()
		g := New(10, w.write)
		g.Size, g.MostBytes = func(item int) int { return item }, 10
		all := call(t, g, map[int]error{}, 1, 4, 6, 2, 50, 3, 3, 3, 1, 5)
		close(w.gate)
		all.Wait()
		sameBatches(t, w.batches, [][]int{{1}, {4, 6}, {2}, {50}, {3, 3, 3, 1}, {5}})
	})
}
