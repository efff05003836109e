package flextest

import "time"

// task is one TaskRouter task. What it says of its interaction comes from the
// entry; a task that a test added has none and says what the test gave it.
type task struct {
	n          uint64
	entry      *entry
	wish       wish   // without its texts
	attributes string // ours as they came, or all of them when verbatim
	verbatim   bool   // attributes are complete, nothing of Twilio's is added
	created    int64  // unix nanoseconds
	completed  int64  // 0: not by anybody
	forgotten  bool
}

// event is the task.created of a task, with the attributes of that moment.
type event struct {
	task       *task
	at         int64 // unix nanoseconds
	attributes string
	verbatim   bool
}

// addTask numbers t, lists it and logs its event. The lock is held.
func (l *ledger) addTask(t *task) {
	l.tasks = append(l.tasks, t)
	t.n = uint64(len(l.tasks))
	if t.wish.key != "" {
		l.byKey[t.wish.key] = append(l.byKey[t.wish.key], t)
	}
	l.events = append(l.events, event{t, t.created, t.attributes, t.verbatim})
	if l.keep > 0 && len(l.events) > 2*l.keep {
		l.events = append(make([]event, 0, 2*l.keep+1), l.events[l.keep:]...)
	}
}

// end is when t was completed, or 0.
func (t *task) end(life time.Duration) int64 {
	if t.completed == 0 && life > 0 {
		return t.created + int64(life)
	}
	return t.completed
}

// status is the task's assignment status at now.
func (t *task) status(life time.Duration, now int64) string {
	if t.entry != nil && t.entry.fate == TaskCanceled {
		return "canceled"
	}
	if end := t.end(life); end != 0 && end <= now {
		return "completed"
	}
	return "pending"
}

// gone says whether t is deleted: forget after it was completed.
func (t *task) gone(set *TaskRouter, now int64) bool {
	end := t.end(set.Life)
	return t.forgotten || end != 0 && end+int64(set.forget()) <= now
}

// sweep forgets, oldest first, the tasks that are gone, so that a long run does
// not keep them. It stops at the first that is not. The lock is held.
func (l *ledger) sweep(set *TaskRouter, now int64) {
	for ; l.swept < len(l.tasks) && l.tasks[l.swept].gone(set, now); l.swept++ {
		t := l.tasks[l.swept]
		l.tasks[l.swept] = nil
		t.forgotten = true
		l.unlist(t)
		if l.keep > 0 && t.entry != nil {
			t.entry.routed = nil
		}
	}
}

// unlist takes t out of the index by key. The lock is held.
func (l *ledger) unlist(t *task) {
	rest := l.byKey[t.wish.key][:0:0]
	for _, other := range l.byKey[t.wish.key] {
		if other != t {
			rest = append(rest, other)
		}
	}
	if len(rest) == 0 {
		delete(l.byKey, t.wish.key)
		return
	}
	l.byKey[t.wish.key] = rest
}

// tasksOf returns the tasks that name means: a WT or KD sid, a key or a test
// id. The lock is held.
func (l *ledger) tasksOf(name string) []*task {
	var list []*task
	for _, t := range l.tasks {
		if t == nil || t.forgotten {
			continue
		}
		of := t.entry != nil && l.sid("KD", t.entry.n) == name
		if of || t.wish.key == name || t.wish.testID == name || l.sid("WT", t.n) == name {
			list = append(list, t)
		}
	}
	return list
}

// Complete ends the tasks of name, a WT or KD sid, a key or a test id: they
// stay listed for TaskRouter.Forget. It returns how many it found.
func (s *Server) Complete(name string) int {
	return s.change(name, func(t *task) { t.completed = time.Now().UnixNano() })
}

// Forget deletes the tasks of name at once. Their events stay.
func (s *Server) Forget(name string) int {
	return s.change(name, func(t *task) {
		t.forgotten = true
		s.ledger.unlist(t)
	})
}

// Overwrite replaces the attributes of the tasks of name, Twilio's own too, as
// another program might. The event log still shows those of their creation.
func (s *Server) Overwrite(name, attributes string) int {
	list, _ := object(attributes)
	key, _ := findText(list, s.cfg.KeyAttribute)
	return s.change(name, func(t *task) {
		s.ledger.unlist(t)
		t.attributes, t.verbatim, t.wish.key = attributes, true, key
		if key != "" {
			s.ledger.byKey[key] = append(s.ledger.byKey[key], t)
		}
	})
}

// Copy adds a task like each of name, for the same interaction, as an invite
// or a transfer does.
func (s *Server) Copy(name string) int {
	return s.change(name, func(t *task) {
		s.ledger.addTask(&task{
			entry: t.entry, wish: t.wish, attributes: t.attributes, verbatim: t.verbatim, created: time.Now().UnixNano(),
		})
	})
}

// change applies one change to the tasks of name and counts them.
func (s *Server) change(name string, do func(*task)) int {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	list := s.ledger.tasksOf(name)
	for _, t := range list {
		do(t)
	}
	s.ledger.signal()
	return len(list)
}

// AddTask adds a task that no create call made, with exactly these attributes,
// and returns its sid.
func (s *Server) AddTask(workspace, workflow, attributes string) string {
	list, _ := object(attributes)
	key, _ := findText(list, s.cfg.KeyAttribute)
	test, _ := findText(list, s.cfg.TestAttribute)
	t := &task{
		wish:       wish{workspace: workspace, workflow: workflow, key: key, testID: test, kind: "chat"},
		attributes: attributes, verbatim: true,
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	t.created = time.Now().UnixNano()
	s.ledger.addTask(t)
	s.ledger.signal()
	return s.ledger.sid("WT", t.n)
}

// Age makes everything that happened so far older by d, as if the clock had
// gone on: tasks are completed, forgotten and out of reach so much earlier.
func (s *Server) Age(d time.Duration) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for _, e := range s.ledger.entries {
		e.at -= int64(d)
	}
	for _, t := range s.ledger.tasks {
		if t == nil {
			continue
		}
		t.created -= int64(d)
		if t.completed != 0 {
			t.completed -= int64(d)
		}
	}
	for i := range s.ledger.events {
		s.ledger.events[i].at -= int64(d)
	}
	s.ledger.signal()
}
