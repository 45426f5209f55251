CREATE TABLE films(id INTEGER PRIMARY KEY, title TEXT, genre TEXT, minutes INTEGER);
CREATE TABLE showings(id INTEGER PRIMARY KEY, film_id INTEGER, room INTEGER, starts TEXT, sold INTEGER);
INSERT INTO films VALUES
  (1,'Aurora','drama',95),
  (2,'Blitz','action',130),
  (3,'Corail','drama',101),
  (4,'Dodo','animation',80),
  (5,'Echo','action',118);
INSERT INTO showings VALUES
  (1,1,1,'2024-06-01 18:00',40),
  (2,2,2,'2024-06-01 20:30',120),
  (3,2,1,'2024-06-02 20:30',95),
  (4,3,3,'2024-06-02 16:00',NULL),
  (5,4,2,'2024-06-02 14:00',60),
  (6,4,2,'2024-06-03 14:00',12);
