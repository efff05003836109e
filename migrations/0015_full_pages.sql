-- +goose Up
-- Each of a request's usual writes changes a column that some index has, in its key or in its predicate (state, due_at,
-- settled_at, published_at), so none is HOT whatever room there is: of 3,000 claims, records and marks at a fillfactor of 80
-- none was. The room was a fifth of the table, and as many more pages to write.
-- Half of each page kept free would save a third of the write-ahead log all the same, as a version that stays on its page
-- is logged as the difference (3.7 for 5.3 kB a request). But a page that holds two settled rows then takes no other:
-- rows would lie on more pages for as long as they are kept.
SET LOCAL lock_timeout = '3s';
ALTER TABLE outbox RESET (fillfactor);

-- +goose Down
ALTER TABLE outbox SET (fillfactor = 80);
