ALTER TABLE customer_purchase_schema ADD PRIMARY KEY (version);
