INSERT INTO customer (id, name, address, date_created)
SELECT id, coalesce(CAST(canonical_text(CAST(name AS BLOB)) AS TEXT), ''),
    CAST(canonical_text(CAST(address AS BLOB)) AS TEXT), canonical_time(date_created)
FROM described_customer;
INSERT INTO purchases
    (id, purchase_name, quantity, customer_id, date_created, last_updated)
SELECT id, coalesce(CAST(canonical_text(CAST(purchase_name AS BLOB)) AS TEXT), ''),
    coalesce(CAST(quantity AS INTEGER), 0), coalesce(CAST(customer_id AS INTEGER), 0),
    canonical_time(date_created),
    CASE WHEN last_updated <> '' THEN canonical_time(last_updated) END
FROM described_purchases;
DELETE FROM sqlite_sequence
WHERE 'described_' || name IN (SELECT name FROM sqlite_sequence);
UPDATE sqlite_sequence SET name = replace(name, 'described_', '');
INSERT INTO sqlite_sequence (name, seq)
SELECT 'customer', 0 WHERE 'customer' NOT IN (SELECT name FROM sqlite_sequence);
UPDATE sqlite_sequence SET seq = max(seq, (
    SELECT coalesce(max(customer_id), 0) FROM purchases WHERE customer_id < 1 << 62
)) WHERE name = 'customer';
DROP TABLE described_customer;
DROP TABLE described_purchases;
