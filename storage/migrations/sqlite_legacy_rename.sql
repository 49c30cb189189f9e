DROP INDEX IF EXISTS purchases_customer_id;
DROP TABLE IF EXISTS sqlite_stat1;
DROP TABLE IF EXISTS sqlite_stat4;
ALTER TABLE customer RENAME TO described_customer;
ALTER TABLE purchases RENAME TO described_purchases;
