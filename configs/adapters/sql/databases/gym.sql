CREATE TABLE members(id INTEGER PRIMARY KEY, name TEXT, plan TEXT, joined TEXT);
CREATE TABLE bookings(member_id INTEGER, course TEXT, day TEXT, came INTEGER);
INSERT INTO members VALUES
  (1,'Hugo','basic','2023-01-10'),
  (2,'Ilse','premium','2022-05-20'),
  (3,'Jan','basic','2024-02-01'),
  (4,'Kaya','student','2024-03-03'),
  (5,'Luz','premium','2023-09-09');
INSERT INTO bookings VALUES
  (1,'yoga','2024-04-01',1),
  (1,'boxing','2024-04-02',0),
  (2,'yoga','2024-04-01',1),
  (2,'yoga','2024-04-08',1),
  (5,'spin','2024-04-03',1),
  (3,'boxing','2024-04-02',1),
  (5,'boxing','2024-04-09',0);
