CREATE TABLE tickets(id INTEGER PRIMARY KEY, title TEXT, owner TEXT, priority INTEGER, opened TEXT, closed TEXT);
INSERT INTO tickets VALUES
  (1,'login fails','mia',1,'2024-05-01','2024-05-03'),
  (2,'slow page','noe',3,'2024-05-02',NULL),
  (3,'typo','mia',4,'2024-05-02','2024-05-02'),
  (4,'crash on save',NULL,1,'2024-05-07',NULL),
  (5,'wrong total','noe',2,'2024-05-08','2024-05-18'),
  (6,'login loop','sol',2,'2024-05-09',NULL);
