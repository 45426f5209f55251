CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT, author TEXT, year INTEGER, copies INTEGER);
CREATE TABLE loans(id INTEGER PRIMARY KEY, book_id INTEGER, member TEXT, due TEXT, returned TEXT);
INSERT INTO books VALUES
  (1,'Germinal','Zola',1885,3),
  (2,'Dune','Herbert',1965,2),
  (3,'Nana','Zola',1880,1),
  (4,'Emma','Austen',1815,4),
  (5,'Solaris','Lem',1961,2),
  (6,'Persuasion','Austen',1817,1);
INSERT INTO loans VALUES
  (1,1,'Ana','2024-04-02','2024-04-01'),
  (2,2,'Ben','2024-04-10',NULL),
  (3,2,'Chloe','2024-05-20',NULL),
  (4,4,'Ana','2024-03-15','2024-03-20'),
  (5,5,'Dev','2024-05-02',NULL),
  (6,1,'Ben','2024-06-01',NULL);
